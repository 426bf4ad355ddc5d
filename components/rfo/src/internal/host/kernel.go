package host

import (
	"syscall"
	"time"
)

// Disk is the room in a file system for a user without privileges. Inodes is 0 where they are not counted (btrfs).
type Disk struct {
	Size, Free         uint64
	Inodes, FreeInodes uint64
}

// Clock is the time of the host and whether the kernel believes that something disciplines it.
type Clock struct {
	Now          time.Time
	Synchronised bool
}

func statfs(path string) (Disk, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		return Disk{}, err
	}
	block := uint64(s.Bsize)
	return Disk{Size: s.Blocks * block, Free: s.Bavail * block, Inodes: s.Files, FreeInodes: s.Ffree}, nil
}

// From <linux/timex.h>: the answer and the status bit for a clock that nobody keeps.
const (
	timeError = 5
	staUnsync = 0x40
)

// adjtimex with no modes set only reads.
func adjtimex() (Clock, error) {
	var buf syscall.Timex
	state, err := syscall.Adjtimex(&buf)
	if err != nil {
		return Clock{Now: time.Now()}, err
	}
	return Clock{Now: time.Now(), Synchronised: state != timeError && buf.Status&staUnsync == 0}, nil
}
