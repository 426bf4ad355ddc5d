package check

import (
	"testing"

	"github.com/rfolabs/rfo/internal/hosttest"
)

func TestRelease(t *testing.T) {
	for line, want := range map[string]string{
		"22.03 LTS": "22.03-LTS", "22.03 (LTS-SP1)": "22.03-LTS-SP1", "24.03 (LTS)": "24.03-LTS",
		"24.03 (LTS-SP10)": "24.03-LTS-SP10", "23.09": "23.09",
	} {
		if got, ok := release(line); !ok || got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
	for _, line := range []string{"", "22", "22.03 (SP1)", "22.03 LTS extra", "x22.03 LTS"} {
		if got, ok := release(line); ok {
			t.Errorf("%q passed as %q", line, got)
		}
	}
}

func TestSystem(t *testing.T) {
	release := func(id, version string) hosttest.Files {
		return hosttest.Files{"/etc/os-release": "# a comment\nID=" + id + "\nVERSION=\"" + version + "\"\nVERSION_ID=\"22.03\"\n"}
	}
	check(t, []variant{
		{"GA form", release(`"openEuler"`, "22.03 LTS"), "system.os", OK, "22.03-LTS"},
		{"lower case", release("openeuler", "24.03 (LTS-SP1)"), "system.os", OK, "24.03-LTS-SP1"},
		{"too old", release("openEuler", "20.03 (LTS-SP3)"), "system.os", Warn, "20.03"},
		{"innovation", release("openEuler", "23.09"), "system.os", Info, "innovation"},
		{"unknown form", release("openEuler", "next"), "system.os", Warn, "not known"},
		{"other system", release("debian", "12 (bookworm)"), "system.os", Info, "debian 22.03"},
		{"vendor file", hosttest.Files{"/etc/os-release": absent, "/usr/lib/os-release": good["/etc/os-release"]}, "system.os", OK, "SP1"},
		{"no file", hosttest.Files{"/etc/os-release": absent}, "system.os", Warn, "cannot tell"},

		{"permissive", hosttest.Files{"/sys/fs/selinux/enforce": "0"}, "system.selinux", OK, "permissive"},
		{"enforcing", hosttest.Files{"/sys/fs/selinux/enforce": "1"}, "system.selinux", Warn, "without"},
		{"with policy", hosttest.Files{"/sys/fs/selinux/enforce": "1", "/var/lib/selinux/targeted/active/modules/200/container/cil": ""}, "system.selinux", OK, "installed"},
		{"odd mode", hosttest.Files{"/sys/fs/selinux/enforce": "maybe"}, "system.selinux", Warn, "unknown"},

		{"no tar", hosttest.Files{"/usr/bin/tar": absent}, "system.tool-tar", Warn, "not found"},
		{"tar not executable", hosttest.Files{"/usr/bin/tar": ""}, "system.tool-tar", Warn, "not found"},
		{"tar by links", hosttest.Files{"/usr/bin/tar": absent, "/usr/bin/bsdtar": "x:", "/bin": "-> usr/bin", "/usr/bin/tar2": "-> bsdtar", "/usr/local/bin/tar": "-> /bin/tar2"}, "system.tool-tar", OK, "/usr/local/bin/tar"},
		{"no mount", hosttest.Files{"/usr/bin/mount": absent}, "system.tool-mount", Fail, "not found"},

		{"swap", hosttest.Files{"/proc/swaps": "Filename Type\n/dev/sda2 partition 1 0 -2\n/swap file 1 0 -3\n"}, "system.swap", Warn, "/dev/sda2, /swap"},
		{"no swaps file", hosttest.Files{"/proc/swaps": absent}, "system.swap", Warn, "cannot tell"},
		{"nr_open", hosttest.Files{"/proc/sys/fs/nr_open": "65536"}, "system.open-files", Fail, "65536"},
		{"soft limit", hosttest.Files{"/proc/self/limits": "Max open files  1024  4096  files\n"}, "system.open-files-shell", Info, "1024"},
		{"unlimited", hosttest.Files{"/proc/self/limits": "Max open files  unlimited  unlimited  files\n"}, "system.open-files-shell", OK, "unlimited"},
		{"limits malformed", hosttest.Files{"/proc/self/limits": "Max open files\n"}, "system.open-files-shell", Warn, ""},
		{"no user namespaces", hosttest.Files{"/proc/sys/user/max_user_namespaces": "0"}, "system.user-namespaces", Info, "0"},
	})
}

func TestNames(t *testing.T) {
	named := func(name string) hosttest.Files { return hosttest.Files{"/proc/sys/kernel/hostname": name} }
	check(t, []variant{
		{"domain", named("node-1.example.com"), "name.hostname", OK, ""},
		{"upper case", named("Node-1"), "name.hostname", Info, "node-1"},
		{"underscore", named("node_1"), "name.hostname", Fail, "node_1"},
		{"dash first", named("-node"), "name.hostname", Fail, ""},
		{"empty", named(""), "name.hostname", Fail, ""},
		{"localhost", named("localhost.localdomain"), "name.hostname", Warn, ""},
		{"unreadable", named(absent), "name.hostname", Warn, "cannot tell"},
		{"commented out", hosttest.Files{"/etc/hosts": "# 10.0.0.1 node-1\n"}, "name.resolvable", Warn, "not in"},
		{"not an address", hosttest.Files{"/etc/hosts": "address node-1\n"}, "name.resolvable", Warn, "not in"},
		{"part of a name", hosttest.Files{"/etc/hosts": "10.0.0.1 node-10\n"}, "name.resolvable", Warn, "not in"},
		{"nss", hosttest.Files{"/etc/hosts": absent, "/etc/nsswitch.conf": "hosts: files myhostname dns\n"}, "name.resolvable", OK, "myhostname"},
	})
}
