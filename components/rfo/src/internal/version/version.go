// Package version holds what the release pipeline stamps into the binary.
//
// The linker ignores a stamp for a name that does not exist, so these names are a contract with the component's build
// definition: -X github.com/rfolabs/rfo/internal/version.Version=v1.25.4+rfor1.
package version

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"
)

var (
	// Version is the release, for example v1.25.4+rfor1.
	Version = "dev"
	// Date is the release's own epoch in RFC 3339, never the time of the build. A host clock before it is wrong.
	Date = ""
)

// String is the line that `rfo version` prints.
func String() string {
	return fmt.Sprintf("rfo version %s (%s, %s/%s)", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Minor is the Kubernetes minor version of this release, or 0 in a build that no release stamped.
func Minor() int {
	parts := strings.SplitN(strings.TrimPrefix(Version, "v"), ".", 3)
	if len(parts) < 3 {
		return 0
	}
	minor, err := strconv.Atoi(parts[1])
	if err != nil {
		return 0
	}
	return minor
}

// Epoch is the earliest moment at which this build can be running.
func Epoch() time.Time {
	if t, err := time.Parse(time.RFC3339, Date); err == nil {
		return t
	}
	return time.Date(2022, time.November, 1, 0, 0, 0, 0, time.UTC) // before the first RFO release
}
