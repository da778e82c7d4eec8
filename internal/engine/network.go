package engine

import (
	"os"

	"berth/internal/container"
	"berth/internal/errdef"
	"berth/internal/network"
	"berth/internal/state"
)

// Networks are the networks of this instance.
func (e *Engine) Networks() network.Store {
	return network.Store{Data: e.Settings.DataRoot, Run: e.Settings.RunRoot}
}

// DefaultNetwork is the network of a container for which none was named: docker's, or none for who may not make one.
func DefaultNetwork() string {
	if os.Geteuid() == 0 {
		return container.NetworkBridge
	}
	return container.NetworkNone
}

// checkNetworks finds the networks that a container names, and puts their own names in the place of IDs.
func (e *Engine) checkNetworks(c *state.Container) error {
	if !c.Config.OwnNetwork() {
		switch c.Config.Network {
		case container.NetworkNone, container.NetworkHost:
			return nil
		}
		return errdef.New(errdef.Invalid, "the container names no network")
	}
	if !e.Host().Privileged() {
		return errdef.Hint(errdef.New(errdef.Unsupported, "cannot connect the container to the network %s: networks need root so far", c.Config.Network),
			"use --network none or --network host")
	}
	seen := map[string]bool{}
	for i := range c.Config.Networks {
		asked := &c.Config.Networks[i]
		n, err := e.Networks().Load(asked.Network)
		if err != nil {
			return err
		}
		if seen[n.Name] {
			return errdef.New(errdef.Invalid, "the network %s is named twice", n.Name)
		}
		seen[n.Name] = true
		asked.Network = n.Name
	}
	c.Config.Network = c.Config.Networks[0].Network
	return nil
}
