package redis

// list is a double-ended queue of strings: a ring of a power of two.
type list struct {
	ring [][]byte
	head int // position of the first element
	n    int
}

func (l *list) at(i int) []byte { return l.ring[(l.head+i)&(len(l.ring)-1)] }

func (l *list) pushFront(v []byte) {
	l.grow()
	l.head = (l.head - 1) & (len(l.ring) - 1)
	l.ring[l.head] = v
	l.n++
}

func (l *list) pushBack(v []byte) {
	l.grow()
	l.ring[(l.head+l.n)&(len(l.ring)-1)] = v
	l.n++
}

func (l *list) popFront() []byte {
	v := l.ring[l.head]
	l.ring[l.head] = nil
	l.head = (l.head + 1) & (len(l.ring) - 1)
	l.n--
	return v
}

func (l *list) popBack() []byte {
	i := (l.head + l.n - 1) & (len(l.ring) - 1)
	v := l.ring[i]
	l.ring[i] = nil
	l.n--
	return v
}

func (l *list) grow() {
	if l.n < len(l.ring) {
		return
	}
	ring := make([][]byte, max(8, 2*len(l.ring)))
	n := copy(ring, l.ring[l.head:])
	copy(ring[n:], l.ring[:l.head])
	l.ring, l.head = ring, 0
}
