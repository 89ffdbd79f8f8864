package redis

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gotpa/tpa/cmd/tpa-bench/internal/resp"
)

// command is one entry of the table of commands.
type command struct {
	name string // in capitals, at most 8 letters
	// arity is the number of arguments with the name; negative: at least that
	// many, as in Redis.
	arity int
	run   func(s *session, args [][]byte)
}

var commands = []command{
	{"PING", -1, ping},
	{"ECHO", 2, echo},
	{"QUIT", -1, quit},
	{"SELECT", 2, selectDB},
	{"HELLO", -1, unknown}, // RESP2 only: clients fall back
	{"CLIENT", -2, ok},
	{"COMMAND", -1, noCommands},
	{"CONFIG", -2, config},
	{"INFO", -1, info},
	{"DBSIZE", 1, dbSize},
	{"FLUSHALL", -1, flushAll},
	{"FLUSHDB", -1, flushAll},

	{"GET", 2, get},
	{"SET", -3, set},
	{"DEL", -2, del},
	{"EXISTS", -2, exists},
	{"TTL", 2, ttl},
	{"INCR", 2, incr},
	{"MSET", -3, mset},
	{"MGET", -2, mget},

	{"LPUSH", -3, lpush},
	{"RPUSH", -3, rpush},
	{"LPOP", 2, lpop},
	{"RPOP", 2, rpop},
	{"LLEN", 2, llen},
	{"LRANGE", 4, lrange},
}

const (
	wrongType  = "WRONGTYPE Operation against a key holding the wrong kind of value"
	notInteger = "ERR value is not an integer or out of range"
	syntax     = "ERR syntax error"
)

// run executes one command and appends its reply.
func (s *session) run(args [][]byte) {
	cmd := find(args[0])
	if cmd == nil {
		unknown(s, args)
		return
	}
	if len(args) != cmd.arity && (cmd.arity > 0 || len(args) < -cmd.arity) {
		s.fail("ERR wrong number of arguments for '" + strings.ToLower(cmd.name) + "' command")
		return
	}
	cmd.run(s, args)
}

// table has the commands by their names as numbers: at tableIndex, or in the next
// free places behind it. Half of it is empty, so that a search soon ends.
var table = func() (t [64]struct {
	number uint64
	cmd    *command
}) {
	for i := range commands {
		number := numberOf([]byte(commands[i].name))
		at := tableIndex(number)
		for t[at].cmd != nil {
			at = (at + 1) % len(t)
		}
		t[at].number, t[at].cmd = number, &commands[i]
	}
	return t
}()

// tableIndex spreads numbers over the 64 places of the table (Fibonacci hashing).
func tableIndex(number uint64) int { return int(number * 0x9e3779b97f4a7c15 >> 58) }

// numberOf packs a name of up to 8 letters of either case.
func numberOf(name []byte) (n uint64) {
	for _, c := range name {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		n = n<<8 | uint64(c)
	}
	return n
}

// find returns the command of that name in either case, nil if there is none.
func find(name []byte) *command {
	if len(name) > 8 {
		return nil
	}
	number := numberOf(name)
	for at := tableIndex(number); table[at].cmd != nil; at = (at + 1) % len(table) {
		// Bytes of 0 before a name do not show in its number.
		if cmd := table[at].cmd; table[at].number == number && len(cmd.name) == len(name) {
			return cmd
		}
	}
	return nil
}

func (s *session) status(text string) { s.out = resp.AppendStatus(s.out, text) }
func (s *session) fail(text string)   { s.out = resp.AppendError(s.out, text) }
func (s *session) int(n int)          { s.out = resp.AppendInt(s.out, int64(n)) }
func (s *session) bulk(b []byte)      { s.out = resp.AppendBulk(s.out, b) }
func (s *session) none()              { s.out = resp.AppendNil(s.out) }

func ok(s *session, _ [][]byte) { s.status("OK") }

func unknown(s *session, args [][]byte) {
	name := args[0][:min(len(args[0]), 64)]
	s.fail("ERR unknown command " + strconv.QuoteToASCII(string(name)))
}

func ping(s *session, args [][]byte) {
	if len(args) > 1 {
		s.bulk(args[1])
		return
	}
	s.status("PONG")
}

func echo(s *session, args [][]byte) { s.bulk(args[1]) }

func quit(s *session, _ [][]byte) {
	s.status("OK")
	s.quit = true
}

func selectDB(s *session, args [][]byte) {
	if string(args[1]) != "0" {
		s.fail("ERR DB index is out of range")
		return
	}
	s.status("OK")
}

// noCommands is the answer to COMMAND: clients then use the ones they know.
func noCommands(s *session, _ [][]byte) { s.out = resp.AppendArray(s.out, 0) }

// config answers what redis-benchmark asks before it starts.
func config(s *session, args [][]byte) {
	if !bytes.EqualFold(args[1], []byte("GET")) || len(args) != 3 {
		s.fail("ERR only CONFIG GET with one parameter is known")
		return
	}
	values := map[string]string{"save": "", "appendonly": "no", "maxmemory": "0", "databases": "1"}
	name := strings.ToLower(string(args[2]))
	v, known := values[name]
	if !known {
		s.out = resp.AppendArray(s.out, 0)
		return
	}
	s.out = resp.AppendArray(s.out, 2)
	s.out = resp.AppendBulk(s.out, name)
	s.out = resp.AppendBulk(s.out, v)
}

// info names a Redis version because clients choose commands by it.
func info(s *session, _ [][]byte) {
	s.release()
	s.out = resp.AppendBulk(s.out, fmt.Sprintf("# Server\r\nserver_name:tpa-bench\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\n"+
		"# Keyspace\r\ndb0:keys=%d\r\n", s.store.size()))
}

func dbSize(s *session, _ [][]byte) {
	s.release()
	s.int(s.store.size())
}

func flushAll(s *session, _ [][]byte) {
	s.release()
	s.store.clear()
	s.status("OK")
}

func get(s *session, args [][]byte) {
	sh := s.rlock(args[1])
	defer s.runlock(sh)
	v := sh.get(args[1])
	switch {
	case v == nil:
		s.none()
	case v.list != nil:
		s.fail(wrongType)
	default:
		s.bulk(v.str)
	}
}

// setOptions are the words after a SET command's value.
type setOptions struct {
	ttl                             time.Duration // 0: none
	onlyNew, onlyOld, old, ttlStays bool
}

func parseSetOptions(words [][]byte) (o setOptions, problem string) {
	for i := 0; i < len(words); i++ {
		switch word := strings.ToUpper(string(words[i])); word {
		case "NX":
			o.onlyNew = true
		case "XX":
			o.onlyOld = true
		case "GET":
			o.old = true
		case "KEEPTTL":
			o.ttlStays = true
		case "EX", "PX":
			if i++; i == len(words) || o.ttl != 0 {
				return o, syntax
			}
			unit := time.Second
			if word == "PX" {
				unit = time.Millisecond
			}
			n, isInt := resp.Int(words[i])
			if !isInt {
				return o, notInteger
			}
			if n <= 0 || n > int64(100*365*24*time.Hour/unit) {
				return o, "ERR invalid expire time in 'set' command"
			}
			o.ttl = time.Duration(n) * unit
		default:
			return o, syntax
		}
	}
	if o.onlyNew && o.onlyOld || o.ttlStays && o.ttl != 0 {
		return o, syntax
	}
	return o, ""
}

func set(s *session, args [][]byte) {
	var o setOptions
	if len(args) > 3 {
		var problem string
		if o, problem = parseSetOptions(args[3:]); problem != "" {
			s.fail(problem)
			return
		}
	}
	sh := s.lock(args[1])
	defer s.unlock(sh)
	if o != (setOptions{}) {
		old := sh.get(args[1])
		if o.old && old != nil && old.list != nil {
			s.fail(wrongType)
			return
		}
		refused := o.onlyNew && old != nil || o.onlyOld && old == nil
		switch {
		case o.old && old != nil:
			s.bulk(old.str)
		case o.old || refused:
			s.none()
		default:
			s.status("OK")
		}
		if refused {
			return
		}
		var expires int64
		if o.ttlStays && old != nil {
			expires = old.expires
		}
		if o.ttl != 0 {
			expires = time.Now().Add(o.ttl).UnixNano()
		}
		sh.set(args[1], args[2]).expires = expires
		return
	}
	sh.set(args[1], args[2])
	s.status("OK")
}

func del(s *session, args [][]byte) {
	n := 0
	for _, key := range args[1:] {
		sh := s.lock(key)
		if sh.get(key) != nil {
			n++
		}
		delete(sh.values, string(key))
		s.unlock(sh)
	}
	s.int(n)
}

func exists(s *session, args [][]byte) {
	n := 0
	for _, key := range args[1:] {
		sh := s.rlock(key)
		if sh.get(key) != nil {
			n++
		}
		s.runlock(sh)
	}
	s.int(n)
}

// ttl answers in whole seconds, rounded up; -1 without expiry, -2 without key.
func ttl(s *session, args [][]byte) {
	sh := s.rlock(args[1])
	defer s.runlock(sh)
	v := sh.get(args[1])
	switch {
	case v == nil:
		s.int(-2)
	case v.expires == 0:
		s.int(-1)
	default:
		left := time.Until(time.Unix(0, v.expires))
		s.int(int((left + time.Second - 1) / time.Second))
	}
}

func incr(s *session, args [][]byte) {
	sh := s.lock(args[1])
	defer s.unlock(sh)
	v := sh.get(args[1])
	if v == nil {
		v = sh.set(args[1], []byte{'0'})
	}
	if v.list != nil {
		s.fail(wrongType)
		return
	}
	n, isInt := resp.Int(v.str)
	if !isInt {
		s.fail(notInteger)
		return
	}
	if n+1 < n {
		s.fail("ERR increment or decrement would overflow")
		return
	}
	v.str = strconv.AppendInt(v.str[:0], n+1, 10)
	s.out = resp.AppendInt(s.out, n+1)
}

// mset stores the keys one after the other; another connection may see some
// before the rest.
func mset(s *session, args [][]byte) {
	if len(args)%2 == 0 {
		s.fail("ERR wrong number of arguments for 'mset' command")
		return
	}
	for i := 1; i < len(args); i += 2 {
		sh := s.lock(args[i])
		sh.set(args[i], args[i+1])
		s.unlock(sh)
	}
	s.status("OK")
}

func mget(s *session, args [][]byte) {
	s.out = resp.AppendArray(s.out, len(args)-1)
	for _, key := range args[1:] {
		sh := s.rlock(key)
		if v := sh.get(key); v != nil && v.list == nil {
			s.bulk(v.str)
		} else {
			s.none()
		}
		s.runlock(sh)
	}
}

func lpush(s *session, args [][]byte) { push(s, args, (*list).pushFront) }
func rpush(s *session, args [][]byte) { push(s, args, (*list).pushBack) }

func push(s *session, args [][]byte, put func(*list, []byte)) {
	sh := s.lock(args[1])
	defer s.unlock(sh)
	v := sh.get(args[1])
	if v == nil {
		v = &value{list: new(list)}
		sh.values[string(args[1])] = v
	}
	if v.list == nil {
		s.fail(wrongType)
		return
	}
	for _, element := range args[2:] {
		put(v.list, bytes.Clone(element))
	}
	s.int(v.list.n)
}

func lpop(s *session, args [][]byte) { pop(s, args, (*list).popFront) }
func rpop(s *session, args [][]byte) { pop(s, args, (*list).popBack) }

func pop(s *session, args [][]byte, take func(*list) []byte) {
	sh := s.lock(args[1])
	defer s.unlock(sh)
	v := sh.get(args[1])
	switch {
	case v == nil:
		s.none()
	case v.list == nil:
		s.fail(wrongType)
	default:
		s.bulk(take(v.list))
		if v.list.n == 0 {
			delete(sh.values, string(args[1]))
		}
	}
}

func llen(s *session, args [][]byte) {
	sh := s.rlock(args[1])
	defer s.runlock(sh)
	v := sh.get(args[1])
	switch {
	case v == nil:
		s.int(0)
	case v.list == nil:
		s.fail(wrongType)
	default:
		s.int(v.list.n)
	}
}

func lrange(s *session, args [][]byte) {
	from, fromOK := resp.Int(args[2])
	to, toOK := resp.Int(args[3])
	if !fromOK || !toOK {
		s.fail(notInteger)
		return
	}
	sh := s.rlock(args[1])
	defer s.runlock(sh)
	v := sh.get(args[1])
	if v == nil {
		s.out = resp.AppendArray(s.out, 0)
		return
	}
	if v.list == nil {
		s.fail(wrongType)
		return
	}
	n := int64(v.list.n)
	if from < 0 {
		from = max(from+n, 0)
	}
	if to < 0 {
		to += n
	}
	to = min(to, n-1)
	s.out = resp.AppendArray(s.out, int(max(to-from+1, 0)))
	for i := from; i <= to; i++ {
		s.bulk(v.list.at(int(i)))
	}
}
