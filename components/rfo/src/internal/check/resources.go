package check

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rfolabs/rfo/internal/version"
)

const (
	gib = 1 << 30
	// A machine sold with 4 GB shows less, since firmware and kernel take their part first.
	minMemory, goodMemory = 35 * gib / 10, 72 * gib / 10
	minCPUs, goodCPUs     = 2, 4
	minDisk, goodDisk     = 5 * gib, 20 * gib
	minInodes             = 100_000
)

func inspectResources(in *inspection) {
	in.memory()
	in.cpus()
	in.disk()
	in.fileSystem()
}

func (in *inspection) memory() {
	want := in.want("memory", "4 GB or more, 8 GB recommended")
	total := uint64(0)
	err := in.Lines("/proc/meminfo", func(line string) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "MemTotal:" {
			kib, _ := strconv.ParseUint(fields[1], 10, 53)
			total = kib * 1024
		}
	})
	found := size(total)
	switch {
	case err != nil:
		want.unseen(err)
	case total == 0:
		want.warn("/proc/meminfo has no readable MemTotal", "free -h")
	case total < minMemory:
		want.fail(found, "give the host at least 4 GB of memory")
	case total < goodMemory:
		want.info(found, "give the host 8 GB of memory if it shall run more than the system's own pods")
	default:
		want.ok(found)
	}
}

func (in *inspection) cpus() {
	want := in.want("cpus", "2 or more, 4 recommended")
	text, err := in.Text("/sys/devices/system/cpu/online")
	if err != nil {
		want.unseen(err)
		return
	}
	n, err := countRanges(text)
	found := fmt.Sprint(n)
	switch {
	case err != nil:
		want.warn(err.Error(), "nproc")
	case n < minCPUs:
		want.fail(found, "give the host at least 2 CPUs")
	case n < goodCPUs:
		want.info(found, "give the host 4 CPUs if it shall run more than the system's own pods")
	default:
		want.ok(found)
	}
}

// countRanges counts the members of a kernel list such as 0-3,8.
func countRanges(list string) (int, error) {
	count := 0
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || to < from {
			return 0, fmt.Errorf("%q is not a list of CPUs", list)
		}
		count += int(to-from) + 1
	}
	return count, nil
}

func (in *inspection) disk() {
	space := in.want("disk", "20 GiB free for images and data, never less than 5 GiB")
	inodes := in.want("inodes", fmt.Sprintf("%d free inodes or more", minInodes))
	parent, disk, err := in.DiskAt(in.DataDir)
	if err != nil {
		space.unseen(err)
		return
	}
	found := fmt.Sprintf("%s of %s free at %s", size(disk.Free), size(disk.Size), parent)
	remedy := "free space at " + parent + ", or choose another place with --data-dir"
	switch {
	case disk.Free < minDisk:
		space.fail(found, remedy)
	case disk.Free < goodDisk:
		space.warn(found, remedy)
	default:
		space.ok(found)
	}
	switch found := fmt.Sprintf("%d free at %s", disk.FreeInodes, parent); {
	case disk.Inodes == 0:
		inodes.ok("not limited at " + parent)
	case disk.FreeInodes < minInodes:
		inodes.warn(found, "df -i "+parent+"  # then remove what has many small files")
	default:
		inodes.ok(found)
	}
}

// fileSystem refuses what image layers or etcd cannot live on.
func (in *inspection) fileSystem() {
	want := in.want("filesystem", "a local disk file system such as ext4 or xfs under the data directory")
	rows, err := mounts(in.Host)
	if err != nil {
		want.unseen(err)
		return
	}
	m := holding(rows, in.Real(in.DataDir))
	found := m.fstype + " at " + m.point
	remedy := "mount an ext4 or xfs file system at " + in.DataDir + ", or choose another place with --data-dir"
	switch m.fstype {
	case "":
		want.warn("no mount holds "+in.DataDir, "findmnt -T "+in.DataDir)
	case "overlay", "nfs", "nfs4", "cifs", "9p", "vfat":
		want.fail(found+": overlayfs cannot keep its layers there", remedy)
	case "tmpfs", "ramfs":
		want.warn(found+": lost at the next boot", remedy)
	default:
		want.ok(found)
	}
}

func size(bytes uint64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/gib) }

func inspectClock(in *inspection) {
	epoch := version.Epoch()
	now := in.want("time", "later than "+epoch.UTC().Format(time.DateOnly)+", when this build was released")
	clock, err := in.Clock()
	if clock.Now.IsZero() {
		now.unseen(err)
		return
	}
	found := clock.Now.UTC().Format(time.RFC3339)
	if clock.Now.Before(epoch) {
		now.fail(found, "systemctl enable --now chronyd  # certificates are not valid yet at this time")
	} else {
		now.ok(found)
	}
	sync := in.want("synchronised", "a clock that NTP keeps: etcd and certificates depend on it")
	switch {
	case err != nil:
		sync.unseen(err)
	case clock.Synchronised || in.Exists("/run/systemd/timesync/synchronized"):
		sync.ok("yes")
	default:
		sync.warn("no", "systemctl enable --now chronyd")
	}
}
