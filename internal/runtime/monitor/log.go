package monitor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"berth/internal/container"
	"berth/internal/disk"
	"berth/internal/errdef"
	"berth/internal/logs"
	"berth/internal/program"
	"berth/internal/state"

	"golang.org/x/sys/unix"
)

// The monitor writes a container's log and nothing else: what is heavy is done by processes of berth-full. One compresses what has been
// rotated. Another, the sender, reads the log and sends it elsewhere: it outlives the monitor, and is started again when it dies
// (docs/decisions/0012).

// fullProgram carries out what the quick program leaves out.
const fullProgram = "berth-full"

const (
	senderLock   = "sender"   // in the container's directory: flock of the sender, whose number it holds
	compressLock = "compress" // flock of whoever rotates or compresses
	sentFile     = "sent"
)

// LogFiles are the files of a container's log; false says that none is kept.
func LogFiles(s state.Store, c *state.Container) (logs.Files, bool) {
	f, kept := c.Config.Log.Kept(c.ID)
	f.Path = filepath.Join(s.Dir(c.ID), f.Path)
	return f, kept
}

// SentPath is the file that says how far a container's log has been sent.
func SentPath(s state.Store, id string) string { return filepath.Join(s.Dir(id), sentFile) }

// TagFacts are what a log says of its container.
func TagFacts(c *state.Container) container.TagFacts {
	return container.TagFacts{ID: c.ID, Name: c.Name, ImageID: string(c.Image.ID), ImageName: c.Image.Name, Config: c.Config}
}

// openLog opens the container's log, to write to it as its options say; nil if none is kept.
func (m *monitor) openLog() (keeper, error) {
	f, kept := LogFiles(m.Store, m.c)
	if !kept {
		return nil, nil
	}
	w, err := logs.Open(f)
	if err != nil {
		return nil, err
	}
	l := m.c.Config.Log
	if f.Format == logs.JSON {
		w.Attributes = l.Attributes(TagFacts(m.c))
	}
	waits, nonBlocking := l.NonBlocking()
	r := &rotation{m: m, files: f, waitsToSend: l.Sent() && !nonBlocking}
	if r.waitsToSend || f.Compress {
		w.BeforeRotation, w.AfterRotation = r.before, r.after
	}
	if nonBlocking && !l.Sent() {
		return logs.NewRing(w, waits), nil
	}
	return w, nil
}

// rotation is what goes with a rotation of the log.
type rotation struct {
	m           *monitor
	files       logs.Files
	waitsToSend bool
	lock        *disk.Lock
}

// sendTime is how long a rotation waits for a sender that gets nothing sent; then its entries are lost.
const sendTime = 10 * time.Second

func (r *rotation) before() error {
	dir := r.m.Store.Dir(r.m.c.ID)
	for end := time.Now().Add(sendTime); r.waitsToSend; time.Sleep(10 * time.Millisecond) {
		unsent, err := logs.OldestUnsent(r.files, filepath.Join(dir, sentFile))
		if err != nil {
			return err
		}
		if !unsent {
			break
		}
		if time.Now().After(end) {
			fmt.Fprintln(os.Stderr, "entries of the log are lost: they could not be sent in time")
			break
		}
	}
	if !r.files.Compress {
		return nil
	}
	lock, err := disk.TakeLock(filepath.Join(dir, compressLock)) // who compresses has it
	r.lock = lock
	return err
}

// after has compressed what was rotated. If that cannot be, it stays as it is: nothing is lost.
func (r *rotation) after() error {
	if r.lock == nil {
		return nil
	}
	defer r.lock.Unlock()
	m := r.m
	m.grown.Store(true)
	m.renewal.hold(m)
	pid, err := startFull(m.Store, m.c.ID, os.Environ(), []*os.File{r.lock.File()}, "log-compress", m.c.ID)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot compress the log:", err)
		m.idle()
		return nil
	}
	go func() {
		defer m.idle()
		await(pid)
	}()
	return nil
}

// await waits for the end of a process.
func await(pid int) {
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		_ = awaitEnd(fd)
		_ = unix.Close(fd)
	}
	_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // if it was one
}

// startFull starts berth-full in a session of its own, with files from descriptor 3 on. What it says goes to monitor.log.
func startFull(s state.Store, id string, env []string, files []*os.File, args ...string) (int, error) {
	path, err := program.Path(s.Data, fullProgram)
	if err != nil {
		return -1, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return -1, err
	}
	defer null.Close()
	words, err := openJournal(s.RunDir(id))
	if err != nil {
		return -1, err
	}
	defer unix.Close(words)
	fds := []uintptr{null.Fd(), null.Fd(), uintptr(words)}
	for _, f := range files {
		fds = append(fds, f.Fd())
	}
	return syscall.ForkExec(path, append([]string{"berth", "--data-root", s.Data, "--run-root", s.Run}, args...),
		&syscall.ProcAttr{Dir: "/", Env: env, Files: fds, Sys: &syscall.SysProcAttr{Setsid: true}})
}

// startSender has what a container prints sent elsewhere, if its log driver does that, and waits until the sender is connected. The caller
// has the container's lock that says that a monitor looks after it.
func startSender(o Options, env []string) error {
	if !o.Container.Config.Log.Sent() {
		return nil
	}
	said, say, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	_, err = ensureSender(o.Store, o.Container.ID, env, say)
	_ = say.Close()
	if err != nil {
		return fmt.Errorf("cannot start the process that sends the log: %w", err)
	}
	why, err := io.ReadAll(said)
	if err == nil && len(why) > 0 {
		err = errdef.New(errdef.Unavailable, "failed to initialize logging driver: %s", why)
	}
	return err
}

// ensureSender starts the sender of a container, unless there is one, and returns its number. One that is started says on ready, if that
// is not nil, why it cannot send, and does without if it can.
func ensureSender(s state.Store, id string, env []string, ready *os.File) (pid int, _ error) {
	path := filepath.Join(s.Dir(id), senderLock)
	lock, err := disk.TryLock(path)
	if errors.Is(err, disk.ErrLocked) {
		return senderPID(path)
	}
	if err != nil {
		return -1, err
	}
	defer lock.Unlock()
	files, args := []*os.File{lock.File()}, []string{"log-send"}
	if ready != nil {
		files, args = append(files, ready), append(args, "--ready")
	}
	// Nobody takes the number of the one before for that of this one.
	if err := lock.File().Truncate(0); err != nil {
		return -1, err
	}
	if pid, err = startFull(s, id, env, files, append(args, id)...); err != nil {
		return -1, err
	}
	_, err = lock.File().WriteAt([]byte(strconv.Itoa(pid)+"\n"), 0)
	return pid, err
}

// senderPID is the number of the process that holds a sender's lock; 0 if it is not written down yet.
func senderPID(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	text, whole := strings.CutSuffix(string(data), "\n")
	if !whole {
		return 0, nil
	}
	return strconv.Atoi(text)
}

// keepSending starts a sender again that has died, as long as this process lives.
func (m *monitor) keepSending() {
	if !m.c.Config.Log.Sent() {
		return
	}
	go func() {
		for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Minute) {
			since := time.Now()
			pid, err := ensureSender(m.Store, m.c.ID, os.Environ(), nil)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintln(os.Stderr, "cannot start the process that sends the log, and try again:", err)
			}
			if err == nil && pid > 0 {
				await(pid)
			}
			if time.Since(since) > time.Minute {
				pause = 100 * time.Millisecond
			}
			time.Sleep(pause)
		}
	}()
}

// sendRest sees to it that there is a sender for what the container has printed last, although this process is about to end.
func (m *monitor) sendRest() {
	if !m.c.Config.Log.Sent() {
		return
	}
	if _, err := ensureSender(m.Store, m.c.ID, os.Environ(), nil); err != nil {
		fmt.Fprintln(os.Stderr, "cannot start the process that sends the log:", err)
	}
}
