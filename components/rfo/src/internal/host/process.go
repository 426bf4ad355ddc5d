package host

import (
	"strconv"
	"strings"
)

// Process is one row of /proc. Comm is the kernel's name for it, which its owner may change: good for a message, not proof.
type Process struct {
	PID  int
	Comm string
}

// Processes lists what /proc shows to this user.
func (h Host) Processes() []Process {
	var processes []Process
	for _, name := range h.List("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		comm, err := h.Text("/proc/" + name + "/comm")
		if err != nil { // it ended meanwhile
			continue
		}
		processes = append(processes, Process{pid, comm})
	}
	return processes
}

// SocketOwners maps the inode of each socket to the process that holds it. It is incomplete for a user other than root.
func (h Host) SocketOwners() map[string]Process {
	owners := map[string]Process{}
	for _, process := range h.Processes() {
		dir := "/proc/" + strconv.Itoa(process.PID) + "/fd"
		for _, fd := range h.List(dir) {
			target, err := h.Link(dir + "/" + fd)
			if err != nil {
				continue
			}
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				owners[strings.TrimSuffix(inode, "]")] = process
			}
		}
	}
	return owners
}
