package check

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/rfolabs/rfo/internal/host"
)

// port is one that RFO listens on.
type port struct {
	number   uint16
	protocol string
	use      string
	agent    bool // also on agents
}

var ports = []port{
	{6443, "tcp", "Kubernetes API", false},
	{9345, "tcp", "supervisor", false},
	{2379, "tcp", "etcd clients", false},
	{2380, "tcp", "etcd peers", false},
	{10250, "tcp", "kubelet", true},
	{8472, "udp", "VXLAN", true},
}

// listener is a socket that would be in the way.
type listener struct {
	address netip.AddrPort
	inode   string
}

func inspectPorts(in *inspection) {
	open := map[string][]listener{}
	seen := map[string]error{}
	for _, protocol := range []string{"tcp", "udp"} {
		open[protocol], seen[protocol] = listeners(in.Host, protocol)
	}
	var owners map[string]host.Process // read only when needed: it walks every descriptor of every process
	running := slices.ContainsFunc(in.Processes(), func(p host.Process) bool { return p.Comm == "rfo" })
	for _, p := range ports {
		if in.Role == Agent && !p.agent {
			continue
		}
		want := in.want(fmt.Sprintf("%d-%s", p.number, p.protocol), "free, for "+p.use)
		if err := seen[p.protocol]; err != nil {
			want.unseen(err)
			continue
		}
		i := slices.IndexFunc(open[p.protocol], func(l listener) bool { return l.address.Port() == p.number })
		if i < 0 {
			want.ok("free")
			continue
		}
		l := open[p.protocol][i]
		if owners == nil {
			owners = in.SocketOwners()
		}
		remedy := fmt.Sprintf("ss -lnp%c 'sport = :%d'  # then stop what listens", p.protocol[0], p.number)
		found := fmt.Sprintf("in use at %s by a process not visible to this user", l.address)
		if owner, ok := owners[l.inode]; ok {
			found = fmt.Sprintf("in use at %s by %s (pid %d)", l.address, owner.Comm, owner.PID)
		}
		if running {
			want.info(found+"; RFO runs here", "")
		} else {
			want.fail(found, remedy)
		}
	}
}

// listeners reads the sockets of both families. IPv6 may be off, so a missing file of that family means none.
func listeners(h host.Host, protocol string) ([]listener, error) {
	wanted := map[string]string{"tcp": "0A", "udp": "07"}[protocol] // LISTEN, and the only state of an unconnected UDP socket
	var found []listener
	visit := func(line string) {
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[3] != wanted {
			return
		}
		if address, ok := parseAddress(fields[1]); ok {
			found = append(found, listener{address, fields[9]})
		}
	}
	err := h.Lines("/proc/net/"+protocol, visit)
	if h.Exists("/proc/net/" + protocol + "6") {
		if err6 := h.Lines("/proc/net/"+protocol+"6", visit); err == nil {
			err = err6
		}
	}
	return found, err
}

// parseAddress reads the kernel's hexadecimal form. Each 32-bit word is in host order, little-endian on all our platforms.
func parseAddress(s string) (netip.AddrPort, bool) {
	address, portText, ok := strings.Cut(s, ":")
	number, err := strconv.ParseUint(portText, 16, 16)
	raw, hexErr := hex.DecodeString(address)
	if !ok || err != nil || hexErr != nil || (len(raw) != 4 && len(raw) != 16) {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.LittleEndian.Uint32(raw[i:]))
	}
	ip, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), true
}
