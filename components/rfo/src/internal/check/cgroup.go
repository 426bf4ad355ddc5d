package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rfolabs/rfo/internal/version"
)

// firstWithoutV1 is the Kubernetes minor version whose kubelet refuses cgroup v1 unless told otherwise.
const firstWithoutV1 = 35

func inspectCgroups(in *inspection) {
	mode := in.want("mode", "cgroup v2, v1 or hybrid, mounted at /sys/fs/cgroup")
	rows, err := mounts(in.Host)
	if err != nil {
		mode.unseen(err)
		return
	}
	var v1 []string
	v2 := ""
	for _, m := range rows {
		if m.point != "/sys/fs/cgroup" && !strings.HasPrefix(m.point, "/sys/fs/cgroup/") {
			continue
		}
		switch m.fstype {
		case "cgroup2":
			v2 = m.point
		case "cgroup":
			v1 = append(v1, m.options...)
		}
	}
	old := func(name string) {
		if minor := version.Minor(); minor >= firstWithoutV1 {
			mode.fail(name, fmt.Sprintf("grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1  # then reboot; kubelet 1.%d refuses v1", minor))
			return
		}
		mode.ok(name)
	}
	switch {
	case len(v1) > 0 && v2 != "":
		old("hybrid")
	case len(v1) > 0:
		old("v1")
	case v2 != "":
		mode.ok("v2")
		text, err := in.Text(v2 + "/cgroup.controllers")
		if err != nil {
			in.want("controllers", "readable").unseen(err)
			return
		}
		in.controllers(strings.Fields(text), []string{"cpu", "cpuset", "memory", "pids"},
			`write "Delegate=cpu cpuset memory pids" into the slice's unit, and no cgroup_disable= on the kernel's command line`)
		return
	default:
		mode.fail("none mounted", "mount -t cgroup2 none /sys/fs/cgroup")
		return
	}
	in.controllers(v1, []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer"},
		"remove cgroup_disable= from the kernel's command line, then reboot")
}

// controllers compares those that exist with those the kubelet and runc need.
func (in *inspection) controllers(found, needed []string, remedy string) {
	want := in.want("controllers", strings.Join(needed, " "))
	var absent []string
	for _, name := range needed {
		if !slices.Contains(found, name) {
			absent = append(absent, name)
		}
	}
	if len(absent) > 0 {
		want.fail("absent: "+strings.Join(absent, " "), remedy)
	} else {
		want.ok("all present")
	}
	huge := in.want("hugetlb", "hugetlb, for huge pages in pods")
	if slices.Contains(found, "hugetlb") {
		huge.ok("present")
	} else {
		huge.info("absent", "")
	}
}
