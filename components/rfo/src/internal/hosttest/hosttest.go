// Package hosttest builds hosts out of a map, for tests.
package hosttest

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rfolabs/rfo/internal/host"
)

// Files are paths of a host with their contents. "-> TARGET" makes a symbolic link, "x:CONTENT" an executable file and
// Absent removes an entry that With would otherwise keep.
type Files map[string]string

// Absent marks a file that a variant of a host does not have.
const Absent = "\x00absent"

// With returns a variant of the host.
func (f Files) With(changes Files) Files {
	variant := maps.Clone(f)
	maps.Copy(variant, changes)
	maps.DeleteFunc(variant, func(_, content string) bool { return content == Absent })
	return variant
}

// New writes the files below a temporary directory. Disk and clock are healthy until a test says otherwise.
func New(t *testing.T, files Files) host.Host {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		file := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if target, ok := strings.CutPrefix(content, "-> "); err == nil && ok {
			err = os.Symlink(target, file)
		} else if script, ok := strings.CutPrefix(content, "x:"); err == nil && ok {
			err = os.WriteFile(file, []byte(script), 0o755)
		} else if err == nil {
			err = os.WriteFile(file, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	h := host.New(root)
	h.Disk = func(string) (host.Disk, error) {
		return host.Disk{Size: 100 << 30, Free: 50 << 30, Inodes: 6_000_000, FreeInodes: 5_000_000}, nil
	}
	h.Clock = func() (host.Clock, error) {
		return host.Clock{Now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), Synchronised: true}, nil
	}
	return h
}
