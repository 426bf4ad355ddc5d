package check

import (
	"path"
	"slices"
	"strings"

	"github.com/rfolabs/rfo/internal/host"
)

// nmConfig is the part of NetworkManager's configuration that decides whether it touches an interface.
type nmConfig struct {
	keyfile []string     // unmanaged-devices
	devices []nmOverride // [device*] sections, which win
}

type nmOverride struct {
	match   []string
	managed string
}

// readNetworkManager merges the files in NetworkManager's order. A file in /etc hides one of the same name in /run, and
// that one in /usr/lib; NetworkManager.conf comes after the vendor's files and before the administrator's.
func readNetworkManager(h host.Host) nmConfig {
	const etc = "/etc/NetworkManager/conf.d"
	files := map[string]string{}
	var vendor, admin []string
	for _, dir := range []string{"/usr/lib/NetworkManager/conf.d", "/run/NetworkManager/conf.d", etc} {
		for _, name := range h.List(dir) {
			if strings.HasSuffix(name, ".conf") {
				files[name] = path.Join(dir, name)
			}
		}
	}
	for _, file := range files {
		if path.Dir(file) == etc {
			admin = append(admin, file)
		} else {
			vendor = append(vendor, file)
		}
	}
	slices.SortFunc(vendor, byBase)
	slices.SortFunc(admin, byBase)
	var config nmConfig
	for _, file := range slices.Concat(vendor, []string{"/etc/NetworkManager/NetworkManager.conf"}, admin) {
		config.merge(h, file)
	}
	return config
}

func byBase(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) }

func (c *nmConfig) merge(h host.Host, file string) {
	section := ""
	_ = h.Lines(file, func(line string) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			return
		}
		if line[0] == '[' {
			section = strings.Trim(line, "[]")
			if strings.HasPrefix(section, "device") {
				c.devices = append(c.devices, nmOverride{})
			}
			return
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case section == "keyfile" && key == "unmanaged-devices":
			c.keyfile = list(value)
		case section == "keyfile" && key == "unmanaged-devices+":
			c.keyfile = append(c.keyfile, list(value)...)
		case section == "keyfile" && key == "unmanaged-devices-":
			drop := list(value)
			c.keyfile = slices.DeleteFunc(c.keyfile, func(s string) bool { return slices.Contains(drop, s) })
		case strings.HasPrefix(section, "device") && key == "match-device":
			c.devices[len(c.devices)-1].match = list(value)
		case strings.HasPrefix(section, "device") && key == "managed":
			c.devices[len(c.devices)-1].managed = strings.ToLower(value)
		}
	})
}

func list(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == ';' || r == ',' || r == ' ' })
}

// unmanaged says whether NetworkManager leaves an interface of this name alone.
func (c nmConfig) unmanaged(name string) bool {
	for _, d := range c.devices {
		if d.managed != "" && matches(d.match, name) {
			return d.managed == "0" || d.managed == "false" || d.managed == "no"
		}
	}
	return matches(c.keyfile, name)
}

// matches implements device lists as far as interface names go; matches by MAC address or driver cannot apply to
// interfaces that do not exist yet.
func matches(specs []string, name string) bool {
	matched := false
	for _, spec := range specs {
		spec, except := strings.CutPrefix(spec, "except:")
		pattern, byName := strings.CutPrefix(spec, "interface-name:")
		hit := spec == "*"
		if literal, ok := strings.CutPrefix(pattern, "="); byName && ok {
			hit = literal == name
		} else if byName {
			hit, _ = path.Match(pattern, name)
		}
		if hit && except {
			return false
		}
		matched = matched || hit
	}
	return matched
}
