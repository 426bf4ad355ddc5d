package check

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/rfolabs/rfo/internal/host"
)

// state is what is known of one option, best last, so that the smallest of several is the one to report.
type state int

const (
	missing  state = iota // the configuration says no
	fileless              // built as a module whose file is not installed
	unknown               // no configuration and no trace
	module
	builtin
)

type answer struct {
	state        state
	name, module string
	loaded       bool
}

func (a answer) String() string {
	switch {
	case a.state == builtin:
		return a.name + " y"
	case a.state == module && a.loaded:
		return a.name + " m (loaded)"
	case a.state == module:
		return a.name + " m"
	case a.state == fileless:
		return a.name + " m, but " + a.module + ".ko is not installed"
	case a.state == unknown:
		return a.name + " unknown"
	}
	return a.name + " missing"
}

func worstOf(answers []answer) answer {
	return slices.MinFunc(answers, func(a, b answer) int { return int(a.state) - int(b.state) })
}

func score(answers []answer) state { return worstOf(answers).state }

// kernel is what can be known of the running kernel without asking it to load anything.
type kernel struct {
	release, source string
	config          map[string]byte // 'y' or 'm'; nil if there is none to read
	loaded          map[string]bool
	built           map[string]bool // listed in modules.builtin
	files           map[string]bool // listed in modules.dep; nil if there is no such list
	has             func(trace string) bool
}

func readKernel(h host.Host) kernel {
	release, _ := h.Text("/proc/sys/kernel/osrelease")
	k := kernel{release: release, loaded: map[string]bool{}}
	if release == "" || strings.ContainsAny(release, "/\x00") {
		k.release = ""
	} else {
		k.config, k.source = readConfig(h, release)
		for _, dir := range []string{"/lib/modules/" + release, "/usr/lib/modules/" + release} {
			if k.built == nil {
				k.built = modules(h, dir+"/modules.builtin")
			}
			if k.files == nil {
				k.files = modules(h, dir+"/modules.dep")
			}
		}
	}
	for _, name := range h.List("/sys/module") {
		k.loaded[name] = true
	}
	filesystems := map[string]bool{}
	_ = h.Lines("/proc/filesystems", func(line string) {
		if fields := strings.Fields(line); len(fields) > 0 {
			filesystems[fields[len(fields)-1]] = true
		}
	})
	k.has = func(trace string) bool {
		if name, ok := strings.CutPrefix(trace, "fs:"); ok {
			return filesystems[name]
		}
		return trace != "" && h.Exists(trace)
	}
	return k
}

// modules reads the names in one of depmod's lists; a module file is NAME.ko, perhaps compressed.
func modules(h host.Host, list string) map[string]bool {
	names := map[string]bool{}
	if err := h.Lines(list, func(line string) {
		file, _, _ := strings.Cut(line, ":")
		if name, _, ok := strings.Cut(path.Base(file), ".ko"); ok {
			names[strings.ReplaceAll(name, "-", "_")] = true
		}
	}); err != nil {
		return nil
	}
	return names
}

// readConfig returns the first configuration that makes sense and its path.
func readConfig(h host.Host, release string) (map[string]byte, string) {
	for _, name := range []string{
		"/proc/config.gz", "/boot/config-" + release, "/lib/modules/" + release + "/config", "/usr/lib/modules/" + release + "/config",
	} {
		file, err := h.Open(name)
		if err != nil {
			continue
		}
		config, err := parseConfig(file, strings.HasSuffix(name, ".gz"))
		file.Close()
		if err == nil {
			return config, name
		}
	}
	return nil, ""
}

// maxConfig bounds what a compressed configuration may grow to; real ones have about 300 KB.
const maxConfig = 8 << 20

func parseConfig(r io.Reader, compressed bool) (map[string]byte, error) {
	if compressed {
		unpacked, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = unpacked
	}
	data, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("larger than %d bytes", maxConfig)
	}
	config := map[string]byte{}
	for line := range strings.Lines(string(data)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if name, isOption := strings.CutPrefix(name, "CONFIG_"); ok && isOption && (value == "y" || value == "m") {
			config[name] = value[0]
		}
	}
	if len(config) == 0 {
		return nil, errors.New("no CONFIG_ lines")
	}
	return config, nil
}

func (k kernel) answers(options []option) []answer {
	answers := make([]answer, len(options))
	for i, o := range options {
		answers[i] = k.answer(o)
	}
	return answers
}

// answer weighs the evidence: what runs proves more than what the configuration says, and that more than lists of files.
func (k kernel) answer(o option) answer {
	names, moduleNames := strings.Split(o.config, "|"), strings.Split(o.module, "|")
	a := answer{name: names[0], module: moduleNames[0]}
	any := func(set map[string]bool) bool {
		return o.module != "" && slices.ContainsFunc(moduleNames, func(m string) bool { return set[m] })
	}
	a.loaded = any(k.loaded)
	for _, name := range names {
		switch k.config[name] {
		case 'y':
			a.name, a.state = name, builtin
			return a
		case 'm':
			a.name, a.state = name, module
			if !a.loaded && k.files != nil && !any(k.files) {
				a.state = fileless
			}
			return a
		}
	}
	switch {
	case k.config != nil:
		a.state = missing
	case any(k.built), k.has(o.trace):
		a.state = builtin
	case a.loaded, any(k.files):
		a.state = module
	default:
		a.state = unknown
	}
	return a
}
