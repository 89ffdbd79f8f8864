package report

import "fmt"

// significant is the chance below which a difference is taken for real.
const significant = 0.05

// chance is how likely two samples of one distribution lie at least as far apart as
// a and b do: the exact Mann-Whitney U test, both sides. It asks only which values
// are greater than which, so one round that went wrong does not decide. Equal values
// count half. It is 1 for empty samples.
func chance(a, b []float64) float64 {
	if len(a) == 0 || len(b) == 0 {
		return 1
	}
	// u2 is twice U: how often a value of a is greater than one of b.
	u2 := 0
	for _, x := range a {
		for _, y := range b {
			switch {
			case x > y:
				u2 += 2
			case x == y:
				u2++
			}
		}
	}
	most := 2 * len(a) * len(b)
	far := min(u2, most-u2) // the nearer to 0, the farther apart
	counts := arrangements(len(a), len(b))
	all, extreme := 0.0, 0.0
	for u, n := range counts {
		all += n
		if 2*u <= far || 2*u >= most-far {
			extreme += n
		}
	}
	return min(extreme/all, 1)
}

// arrangements returns for each U from 0 to n*m in how many orders of n values of
// one sample and m of another it comes out: the coefficients of the Gaussian
// binomial, built up by the product of (1-q^(m+i))/(1-q^i) for i from 1 to n.
func arrangements(n, m int) []float64 {
	counts := make([]float64, n*m+1)
	counts[0] = 1
	for i := 1; i <= n; i++ {
		for u := len(counts) - 1; u >= m+i; u-- {
			counts[u] -= counts[u-m-i]
		}
		for u := i; u < len(counts); u++ {
			counts[u] += counts[u-i]
		}
	}
	return counts
}

// least is the smallest chance that samples of these sizes can have.
func least(n, m int) float64 {
	all := 0.0
	for _, c := range arrangements(n, m) {
		all += c
	}
	return min(2/all, 1)
}

// difference says whether rounds are apart, empty if they clearly are.
func difference(what string, chance float64, n, m int) string {
	switch {
	case n < 2 || m < 2:
		return "" // nobody takes one round for a proof
	case least(n, m) > significant:
		if chance <= least(n, m)*1.001 {
			return ""
		}
		return fmt.Sprintf("no clear difference in %s: some rounds went one way and some the other, and they are too few for a test (want 4)", what)
	case chance > significant:
		return fmt.Sprintf("no significant difference in %s: rounds lie this far apart by chance with a probability of %.2f (Mann-Whitney)", what, chance)
	}
	return ""
}
