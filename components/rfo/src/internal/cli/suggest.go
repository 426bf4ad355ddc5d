package cli

// nearest returns the command that a typing error most likely meant, or "" if none is near.
func nearest(name string) string {
	best, distance := "", 3
	for _, c := range commands() {
		if d := edits(name, c.name); d < distance && d < len(c.name) {
			best, distance = c.name, d
		}
	}
	return best
}

// edits is the Levenshtein distance, one row at a time.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
