package fullcli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"berth/internal/cli"
	"berth/internal/engine"
	"berth/internal/errdef"
	"berth/internal/logs"
	"berth/internal/logs/forward"
	"berth/internal/runtime/monitor"
	"berth/internal/tail"

	"golang.org/x/sys/unix"
)

// lastTime is how long a sender goes on trying when its container has ended.
const lastTime = 10 * time.Second

// sendLog is a container's sender: it sends what the monitor writes to the log, until the container has ended. Descriptor 3 holds its
// lock.
func sendLog(c cli.Call) error {
	// Its memory is nobody's business in a container that shares its pid namespace.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	of, err := c.Engine.Containers.Resolve(c.Args[0])
	if err != nil {
		return err
	}
	files, kept := monitor.LogFiles(c.Engine.Containers, of)
	if !kept {
		return errdef.New(errdef.Invalid, "the log of container %s is not sent", of.Name)
	}
	dir, run := c.Engine.Containers.Dir(of.ID), c.Engine.Containers.RunDir(of.ID)
	watch, err := tail.NewWatch(dir, run)
	if err != nil {
		return err
	}
	defer watch.Close()
	connection, err := dial(c, of.Config.Log.Driver, func() (*forward.Connection, error) { return forward.Dial(of.Config.Log, monitor.TagFacts(of)) })
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		for c.Engine.Containers.Monitored(of.ID) {
			time.Sleep(time.Second)
		}
		time.Sleep(lastTime)
		cancel()
	}()
	buffer, _ := of.Config.Log.NonBlocking()
	return connection.Run(ctx, forward.Options{
		Files: files, Sent: monitor.SentPath(c.Engine.Containers, of.ID), Buffer: buffer,
		Wait: func() bool {
			if !c.Engine.Containers.Monitored(of.ID) {
				return false
			}
			watch.Wait(ctx, time.Second)
			return true
		},
	})
}

// dial connects. When the container is just being started, whoever starts it is told on descriptor 4 why it cannot; otherwise it tries
// again.
func dial(c cli.Call, driver string, connect func() (*forward.Connection, error)) (*forward.Connection, error) {
	if option(c, "ready") != "" {
		said := os.NewFile(4, "ready")
		connection, err := connect()
		if err != nil {
			_, say := fmt.Fprint(said, err)
			err = errors.Join(err, say)
		}
		return connection, errors.Join(err, said.Close())
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		connection, err := connect()
		if err == nil || !c.Engine.Containers.Monitored(c.Args[0]) {
			return connection, err
		}
		fmt.Fprintf(c.Err, "cannot connect to the log of the driver %s, and try again: %v\n", driver, err)
		time.Sleep(pause)
	}
}

// compressLog compresses what has been rotated of a container's log. Descriptor 3 holds the lock of those who rotate.
func compressLog(c cli.Call) error {
	of, err := c.Engine.Containers.Resolve(c.Args[0])
	if err != nil {
		return err
	}
	files, _ := monitor.LogFiles(c.Engine.Containers, of)
	return logs.Compress(files)
}

// logNames answers what the patterns in a container's log options match.
func logNames(c cli.Call) error {
	var request, found engine.LogPatterns
	err := json.NewDecoder(c.In).Decode(&request)
	if err != nil {
		return err
	}
	if found.Labels, err = forward.Matches(request.LabelPattern, request.Labels); err != nil {
		return err
	}
	if found.Env, err = forward.Matches(request.EnvPattern, request.Env); err != nil {
		return err
	}
	return json.NewEncoder(c.Out).Encode(found)
}
