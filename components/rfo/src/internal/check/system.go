package check

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/rfolabs/rfo/internal/host"
)

func inspectSystem(in *inspection) {
	in.distribution()
	in.selinux()
	in.tools()
	in.swap()
	in.openFiles()
	in.userNamespaces()
}

// openEulerVersion accepts both forms in use: `22.03 LTS` and `22.03 (LTS-SP1)`. VERSION_ID lacks the service pack.
var openEulerVersion = regexp.MustCompile(`^(\d\d\.\d\d)(?: \(?(LTS)(?:-SP(\d+))?\)?)?$`)

// release names an openEuler release as people write it: 22.03-LTS-SP1.
func release(versionLine string) (string, bool) {
	m := openEulerVersion.FindStringSubmatch(versionLine)
	if m == nil {
		return "", false
	}
	name := m[1]
	if m[2] != "" {
		name += "-LTS"
	}
	if m[3] != "" {
		name += "-SP" + m[3]
	}
	return name, true
}

func (in *inspection) distribution() {
	want := in.want("os", "openEuler 22.03-LTS or later")
	fields, err := osRelease(in.Host)
	if err != nil {
		want.unseen(err)
		return
	}
	id, line := fields["ID"], fields["VERSION"] // ID is "openEuler" in mixed case
	if !strings.EqualFold(id, "openeuler") {
		want.info(strings.TrimSpace(id+" "+fields["VERSION_ID"])+", on which RFO is not verified", "")
		return
	}
	switch name, ok := release(line); {
	case !ok:
		want.warn(fmt.Sprintf("openEuler with VERSION=%q, a form not known", line), "cat /etc/os-release")
	case name < "22.03":
		want.warn("openEuler "+name, "upgrade the host to openEuler 22.03-LTS or later")
	case !strings.Contains(name, "LTS"):
		want.info("openEuler "+name+", an innovation release with short support", "")
	default:
		want.ok("openEuler " + name)
	}
}

func osRelease(h host.Host) (map[string]string, error) {
	fields := map[string]string{}
	visit := func(line string) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			fields[key] = strings.Trim(value, `"'`)
		}
	}
	err := h.Lines("/etc/os-release", visit)
	if err != nil {
		err = h.Lines("/usr/lib/os-release", visit)
	}
	return fields, err
}

func (in *inspection) selinux() {
	want := in.want("selinux", "disabled, permissive, or enforcing with container-selinux")
	mode, err := in.Text("/sys/fs/selinux/enforce")
	switch {
	case err != nil:
		want.ok("disabled")
	case mode == "0":
		want.ok("permissive")
	case mode != "1":
		want.warn(fmt.Sprintf("unknown mode %q", mode), "getenforce")
	case in.containerPolicy():
		want.ok("enforcing, container policy installed")
	default:
		want.warn("enforcing without a container policy", "dnf install container-selinux")
	}
}

// containerPolicy looks for the policy module in each store and priority, as semodule would list it.
func (in *inspection) containerPolicy() bool {
	for _, store := range in.List("/var/lib/selinux") {
		modules := path.Join("/var/lib/selinux", store, "active/modules")
		for _, priority := range in.List(modules) {
			if in.Exists(path.Join(modules, priority, "container")) {
				return true
			}
		}
	}
	return false
}

// binDirs is where units find programs.
var binDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

func (in *inspection) tools() {
	for _, tool := range []struct {
		name, why, pkg string
		missing        Status
	}{
		{"tar", "the installer unpacks with it, and kubectl cp needs it", "tar", Warn},
		{"mount", "the kubelet mounts volumes with it", "util-linux", Fail},
		{"modprobe", "the units load br_netfilter and overlay with it", "kmod", Warn},
	} {
		want := in.want("tool-"+tool.name, tool.name+" in PATH: "+tool.why)
		found := ""
		for _, dir := range binDirs {
			if found == "" && in.Executable(path.Join(dir, tool.name)) {
				found = path.Join(dir, tool.name)
			}
		}
		if found == "" {
			want.verdict(tool.missing, "not found", "dnf install -y "+tool.pkg)
		} else {
			want.ok(found)
		}
	}
}

func (in *inspection) swap() {
	want := in.want("swap", "no active swap: the kubelet does not account for it")
	var active []string
	line := 0
	err := in.Lines("/proc/swaps", func(text string) {
		if fields := strings.Fields(text); line > 0 && len(fields) > 0 {
			active = append(active, fields[0])
		}
		line++
	})
	switch {
	case err != nil:
		want.unseen(err)
	case len(active) > 0:
		want.warn(strings.Join(active, ", "), "swapoff -a  # and remove the swap lines from /etc/fstab")
	default:
		want.ok("none")
	}
}

// unitOpenFiles is LimitNOFILE in the units; systemd cannot grant more than fs.nr_open.
const unitOpenFiles = 1048576

func (in *inspection) openFiles() {
	want := in.want("open-files", fmt.Sprintf("fs.nr_open of at least %d, the limit in RFO's units", unitOpenFiles))
	limit, err := in.Number("/proc/sys/fs/nr_open")
	switch {
	case err != nil:
		want.unseen(err)
	case limit < unitOpenFiles:
		want.fail(fmt.Sprint(limit), fmt.Sprintf("sysctl -w fs.nr_open=%d", unitOpenFiles))
	default:
		want.ok(fmt.Sprint(limit))
	}
	shell := in.want("open-files-shell", "65536 or more, if rfo is started by hand and not by its unit")
	soft := ""
	err = in.Lines("/proc/self/limits", func(line string) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				soft = fields[0]
			}
		}
	})
	var n int64
	_, scanErr := fmt.Sscan(soft, &n)
	switch {
	case err != nil:
		shell.unseen(err)
	case soft == "unlimited" || scanErr == nil && n >= 65536:
		shell.ok(soft)
	case scanErr != nil:
		shell.warn(fmt.Sprintf("/proc/self/limits says %q", soft), "ulimit -n")
	default:
		shell.info(soft, "ulimit -n 65536")
	}
}

func (in *inspection) userNamespaces() {
	want := in.want("user-namespaces", "user.max_user_namespaces above 0, for pods with hostUsers: false")
	switch n, err := in.Number("/proc/sys/user/max_user_namespaces"); {
	case err != nil:
		want.info("no such sysctl", "")
	case n <= 0:
		want.info(fmt.Sprint(n), "sysctl -w user.max_user_namespaces=28633")
	default:
		want.ok(fmt.Sprint(n))
	}
}
