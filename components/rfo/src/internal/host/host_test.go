package host_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rfolabs/rfo/internal/host"
	"github.com/rfolabs/rfo/internal/hosttest"
)

func TestLinksStayInTheRoot(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := hosttest.New(t, hosttest.Files{
		"/run/stub.conf":     "stub",
		"/etc/absolute":      "-> /run/stub.conf",
		"/etc/relative":      "-> ../run/stub.conf",
		"/etc/above":         "-> ../../../../../../run/stub.conf",
		"/etc/chain":         "-> absolute",
		"/etc/dir":           "-> /run",
		"/etc/loop":          "-> loop",
		"/etc/out":           "-> " + outside,
		"/etc/dangling":      "-> nowhere",
		"/etc/deep/from/dir": "-> ../../dir",
	})
	for _, name := range []string{"/etc/absolute", "/etc/relative", "/etc/above", "/etc/chain", "/etc/dir/stub.conf", "etc/deep/from/dir/stub.conf", "/etc/../run/stub.conf", "/../run/stub.conf"} {
		if text, err := h.Text(name); err != nil || text != "stub" {
			t.Errorf("%s: got %q, %v", name, text, err)
		}
	}
	for name, want := range map[string]error{"/etc/loop": syscall.ELOOP, "/etc/out": fs.ErrNotExist, "/etc/dangling": fs.ErrNotExist} {
		text, err := h.Text(name)
		if !errors.Is(err, want) {
			t.Errorf("%s: got %q, %v; want %v", name, text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), h.Root) {
			t.Errorf("%s: the error shows the root: %v", name, err)
		}
	}
	if got := h.Real("/etc/deep/from/dir/new"); got != "/run/new" {
		t.Errorf("Real: got %q", got)
	}
	if got, err := h.Link("/etc/chain"); err != nil || got != "absolute" {
		t.Errorf("Link: got %q, %v", got, err)
	}
}

func TestOnlyRegularFilesAreRead(t *testing.T) {
	h := hosttest.New(t, hosttest.Files{"/etc/ok": " 7\n", "/etc/word": "seven"})
	if err := syscall.Mkfifo(filepath.Join(h.Root, "etc/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/etc/pipe", "/etc", "/etc/absent", "/etc/ok/below"} {
		if _, err := h.Text(name); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	if n, err := h.Number("/etc/ok"); n != 7 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := h.Number("/etc/word"); err == nil {
		t.Error("a word passed for a number")
	}
}

func TestSizesAreBounded(t *testing.T) {
	h := hosttest.New(t, hosttest.Files{
		"/big":  strings.Repeat("x", 5<<20),
		"/many": strings.Repeat("line\n", 1<<20),
	})
	if _, err := h.Text("/big"); err == nil {
		t.Error("Text read a file without bound")
	}
	if err := h.Lines("/big", func(string) {}); err == nil {
		t.Error("Lines read a line without bound")
	}
	n := 0
	if err := h.Lines("/many", func(string) { n++ }); err != nil || n != 1<<20 {
		t.Errorf("got %d lines, %v", n, err)
	}
}

func TestProcessesAndSockets(t *testing.T) {
	h := hosttest.New(t, hosttest.Files{
		"/proc/7/comm":    "etcd\n",
		"/proc/7/fd/3":    "-> socket:[4711]",
		"/proc/7/fd/4":    "-> /dev/null",
		"/proc/8/fd/1":    "-> socket:[1]", // no comm: it ended between two reads
		"/proc/self/comm": "not a pid",
	})
	if got := h.Processes(); len(got) != 1 || got[0] != (host.Process{PID: 7, Comm: "etcd"}) {
		t.Errorf("got %v", got)
	}
	if got := h.SocketOwners(); len(got) != 1 || got["4711"].PID != 7 {
		t.Errorf("got %v", got)
	}
}

func TestDiskAtNearestParent(t *testing.T) {
	h := hosttest.New(t, hosttest.Files{"/var/lib/x": "", "/var/data": "-> /srv", "/srv/x": ""})
	var asked string
	h.Disk = func(p string) (host.Disk, error) { asked = p; return host.Disk{}, nil }
	for name, want := range map[string]string{"/var/lib/rancher/rfo": "/var/lib", "/nowhere/at/all": "/", "/var/data/rfo": "/srv"} {
		if _, _, err := h.DiskAt(name); err != nil || filepath.Clean(asked) != filepath.Join(h.Root, want) {
			t.Errorf("%s: asked %q, %v", name, asked, err)
		}
	}
}

func TestLiveHost(t *testing.T) {
	h := host.New("/")
	if _, disk, err := h.DiskAt("/"); err != nil || disk.Size == 0 {
		t.Errorf("disk: %+v, %v", disk, err)
	}
	if clock, err := h.Clock(); clock.Now.IsZero() {
		t.Errorf("clock: %+v, %v", clock, err)
	}
	if _, err := host.New(t.TempDir()).Clock(); !errors.Is(err, host.ErrNotLive) {
		t.Errorf("a mounted disk has a clock: %v", err)
	}
}
