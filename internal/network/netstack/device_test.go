package netstack

import (
	"os"
	"testing"

	"berth/internal/network/netlink"
	"berth/internal/network/uplink"
	"berth/test/netns"

	"golang.org/x/sys/unix"
)

// Where /dev/net/tun is not there the device is a pair of interfaces, and whatever an earlier uplink has left is replaced.
func TestTheDeviceIsAPairWhereThereIsNoTUN(t *testing.T) {
	ns := netns.New(t)
	make := func(kind string) {
		t.Helper()
		netns.In(t, ns, func() error {
			n, err := netlink.Open(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer n.Close()
			device, err := uplink.MakeDevice(n, "uplink0", 1500)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = device.Close() }) // it stays, as that of an uplink which is being killed
			if l, err := n.LinkByName("uplink0"); err != nil || l.Kind != kind {
				t.Errorf("the device is %+v, not a %s: %v", l, kind, err)
			}
			return nil
		})
	}
	const node, away = "/dev/net/tun", "/dev/net/away"
	make("tun")
	if err := os.Rename(node, away); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Rename(away, node) })
	make("veth")
	make("veth")
	if err := os.Rename(away, node); err != nil {
		t.Fatal(err)
	}
	make("tun")
}
