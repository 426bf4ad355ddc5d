// Package host reads the state of one machine and changes nothing on it.
//
// Every fact that `rfo` learns about a host comes through Host, so a test, or an operator who looks at a mounted disk,
// points it at another root. Nothing here runs a program or opens a socket.
package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Host files are foreign input; these bounds keep a broken or hostile one from taking the memory.
const (
	maxFile  = 4 << 20
	maxLine  = 1 << 20
	maxLinks = 40
)

// ErrNotLive answers questions about a running kernel when Host looks at another root.
var ErrNotLive = errors.New("not a running host")

// Host is read-only access to the files below Root. Disk and Clock are the only facts that no file holds.
type Host struct {
	Root  string
	Disk  func(hostPath string) (Disk, error)
	Clock func() (Clock, error)
}

// New describes the machine whose file system is mounted at root.
func New(root string) Host {
	h := Host{Root: root, Disk: statfs, Clock: adjtimex}
	if filepath.Clean(root) != "/" {
		h.Clock = func() (Clock, error) { return Clock{}, ErrNotLive }
	}
	return h
}

// Live says whether the machine looked at is the one that runs this program.
func (h Host) Live() bool { return filepath.Clean(h.Root) == "/" }

// resolve maps a path of the host to one of ours. Symbolic links mean what they mean to the host: an absolute one starts
// at Root and none leaves it, which following links by the operating system would not give.
func (h Host) resolve(name string, followLast bool) (string, error) {
	rest, current := split(path.Clean("/"+name)), "/"
	for links := 0; len(rest) > 0; {
		element := rest[0]
		rest = rest[1:]
		if element == ".." {
			current = path.Dir(current)
			continue
		}
		next := path.Join(current, element)
		if len(rest) == 0 && !followLast {
			current = next
			break
		}
		target, err := os.Readlink(filepath.Join(h.Root, next))
		if err != nil { // no link, or nothing there: opening it will tell
			current = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
		}
		if path.IsAbs(target) {
			current = "/"
		}
		rest = append(split(target), rest...)
	}
	return filepath.Join(h.Root, current), nil
}

func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}

// Open opens a regular file for reading. Anything else is refused, since a pipe could block for ever.
func (h Host) Open(name string) (io.ReadCloser, error) {
	real, err := h.resolve(name, true)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(real, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, rename(err, name)
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	return file, nil
}

// rename puts the host's own path into an error, so that messages do not depend on Root.
func rename(err error, name string) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return fmt.Errorf("%s: %w", name, pathErr.Err)
	}
	return err
}

// Text returns a small file without surrounding white space.
func (h Host) Text(name string) (string, error) {
	file, err := h.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return "", rename(err, name)
	}
	if len(data) > maxFile {
		return "", fmt.Errorf("%s: larger than %d bytes", name, maxFile)
	}
	return strings.TrimSpace(string(data)), nil
}

// Number returns the file's only number.
func (h Host) Number(name string) (int64, error) {
	text, err := h.Text(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is not a number", name, text)
	}
	return n, nil
}

// Lines calls visit for each line of a file of any length.
func (h Host) Lines(name string, visit func(line string)) error {
	file, err := h.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, maxLine)
	for scanner.Scan() {
		visit(scanner.Text())
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Exists says whether there is something at the end of the path and its links.
func (h Host) Exists(name string) bool {
	real, err := h.resolve(name, true)
	if err != nil {
		return false
	}
	_, err = os.Lstat(real)
	return err == nil
}

// Executable says whether the path is a file that somebody may run.
func (h Host) Executable(name string) bool {
	real, err := h.resolve(name, true)
	if err != nil {
		return false
	}
	info, err := os.Lstat(real)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// List returns the names in a directory in byte order, or none if it cannot be read.
func (h Host) List(name string) []string {
	real, err := h.resolve(name, true)
	if err != nil {
		return nil
	}
	entries, _ := os.ReadDir(real)
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names
}

// Link returns what a symbolic link says, not where it leads.
func (h Host) Link(name string) (string, error) {
	real, err := h.resolve(name, false)
	if err != nil {
		return "", err
	}
	return os.Readlink(real)
}

// Real returns the host's path without symbolic links, or the path itself if they lead in circles.
func (h Host) Real(name string) string {
	real, err := h.resolve(name, true)
	if err != nil {
		return name
	}
	return path.Clean("/" + strings.TrimPrefix(real, filepath.Clean(h.Root)))
}

// DiskAt describes the file system that a file would be created in: that of the nearest existing parent, returned too.
func (h Host) DiskAt(name string) (parent string, disk Disk, err error) {
	parent = path.Clean("/" + name)
	for !h.Exists(parent) && parent != "/" {
		parent = path.Dir(parent)
	}
	real, err := h.resolve(parent, true)
	if err != nil {
		return parent, Disk{}, err
	}
	disk, err = h.Disk(real)
	return parent, disk, err
}
