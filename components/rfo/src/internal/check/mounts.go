package check

import (
	"strings"

	"github.com/rfolabs/rfo/internal/host"
)

// mount is one row of mountinfo.
type mount struct {
	point, fstype string
	options       []string // of the file system itself: for cgroup v1 its controllers
}

// unescape undoes the kernel's octal escapes in mount points.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func mounts(h host.Host) ([]mount, error) {
	var rows []mount
	err := h.Lines("/proc/self/mountinfo", func(line string) {
		left, right, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(rest) < 3 {
			return
		}
		rows = append(rows, mount{unescape.Replace(fields[4]), rest[0], strings.Split(rest[2], ",")})
	})
	return rows, err
}

// holding returns the mount a path lies in; a later mount hides an earlier one at the same place.
func holding(rows []mount, name string) (best mount) {
	for _, m := range rows {
		inside := m.point == "/" || name == m.point || strings.HasPrefix(name, m.point+"/")
		if inside && len(m.point) >= len(best.point) {
			best = m
		}
	}
	return best
}
