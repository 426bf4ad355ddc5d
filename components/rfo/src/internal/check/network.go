package check

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/rfolabs/rfo/internal/host"
)

func inspectNetwork(in *inspection) {
	processes := in.Processes()
	in.firewalld(processes)
	in.networkManager(processes)
	in.routes()
}

func runs(processes []host.Process, comm string) bool {
	return slices.ContainsFunc(processes, func(p host.Process) bool { return p.Comm == comm })
}

func (in *inspection) firewalld(processes []host.Process) {
	want := in.want("firewalld", "off: it removes and reorders rules that the pod network needs")
	const remedy = "systemctl disable --now firewalld"
	switch {
	case runs(processes, "firewalld"):
		want.warn("running", remedy)
	case in.enabled("/etc/systemd/system/multi-user.target.wants/firewalld.service"):
		want.warn("not running, but starts at the next boot", remedy)
	default:
		want.ok("not running")
	}
}

// enabled says whether a unit is enabled: systemd's link counts even if what it points to is not there.
func (in *inspection) enabled(name string) bool {
	_, err := in.Link(name)
	return err == nil
}

// podInterfaces are examples of the names that Canal creates.
var podInterfaces = []string{"cali0123456789a", "flannel.1"}

func (in *inspection) networkManager(processes []host.Process) {
	want := in.want("networkmanager", "absent, or told to leave cali* and flannel* alone")
	if !runs(processes, "NetworkManager") && !in.Executable("/usr/sbin/NetworkManager") {
		want.ok("absent")
		return
	}
	config := readNetworkManager(in.Host)
	var managed []string
	for _, name := range podInterfaces {
		if !config.unmanaged(name) {
			managed = append(managed, strings.TrimRight(name, "0123456789a.")+"*")
		}
	}
	if len(managed) == 0 {
		want.ok("leaves cali* and flannel* alone")
		return
	}
	want.warn("manages "+strings.Join(managed, ", "),
		`printf '[keyfile]\nunmanaged-devices=interface-name:cali*;interface-name:flannel*\n' > /etc/NetworkManager/conf.d/rfo-canal.conf && systemctl reload NetworkManager`)
}

// defaultNetworks are RFO's pods and Services unless the configuration says otherwise.
var defaultNetworks = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")}

// routes finds networks of the site that the cluster's own addresses would hide.
func (in *inspection) routes() {
	want := in.want("routes", "no route of the site inside 10.42.0.0/16 or 10.43.0.0/16")
	var taken []string
	err := in.Lines("/proc/net/route", func(line string) {
		fields := strings.Fields(line)
		if len(fields) < 8 || podInterface(fields[0]) {
			return
		}
		route, ok := parseRoute(fields[1], fields[7])
		if ok && route.Bits() > 8 && slices.ContainsFunc(defaultNetworks, route.Overlaps) {
			taken = append(taken, fmt.Sprintf("%s via %s", route, fields[0]))
		}
	})
	switch {
	case err != nil:
		want.unseen(err)
	case len(taken) > 0:
		want.warn(strings.Join(taken, ", "), "set cluster-cidr and service-cidr in /etc/rancher/rfo/config.yaml before the first start")
	default:
		want.ok("none")
	}
}

func podInterface(name string) bool {
	return name == "cni0" || strings.HasPrefix(name, "cali") || strings.HasPrefix(name, "flannel")
}

func parseRoute(address, mask string) (netip.Prefix, bool) {
	a, err1 := hex.DecodeString(address)
	m, err2 := hex.DecodeString(mask)
	if err1 != nil || err2 != nil || len(a) != 4 || len(m) != 4 {
		return netip.Prefix{}, false
	}
	slices.Reverse(a)
	bits := 0
	for word := binary.LittleEndian.Uint32(m); word&0x80000000 != 0; word <<= 1 {
		bits++
	}
	ip, _ := netip.AddrFromSlice(a)
	return netip.PrefixFrom(ip, bits), true
}
