package network

import (
	"encoding/binary"
	"os/exec"
	"strings"
	"testing"
)

// shell runs a command on the test's host.
func (w *world) shell(command string) {
	w.t.Helper()
	if out, err := exec.Command("sh", "-ec", command).CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

func TestAFirewallThatDropsWhatIsForwardedIsSaid(t *testing.T) {
	const forward = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"
	for _, c := range []struct {
		summary, rules string
		needs          string // a program beside nft
		want           string // of the line; "" is none
		closed         bool   // the port is not reached
	}{
		{summary: "None", rules: "add table ip x"},
		{summary: "One that drops what is for the host", rules: "add table inet f; add chain inet f input { type filter hook input priority 0; policy drop; }; add rule inet f input accept"},
		{summary: "One that drops some of it", rules: "add table inet f; add chain inet f passing { type filter hook forward priority 0; }; add rule inet f passing tcp dport 25 drop"},
		{summary: "Of another family", rules: "add table ip6 f; add chain ip6 f passing { type filter hook forward priority 0; policy drop; }"},
		{
			summary: "A policy", rules: "add table inet mine; add chain inet mine passing { type filter hook forward priority 10; policy drop; }",
			want: "chain passing of the nftables table inet mine drops", closed: true,
		},
		{
			summary: "A last rule", rules: "add table inet mine; add chain inet mine passing { type filter hook forward priority 10; }; add rule inet mine passing counter reject with icmpx type admin-prohibited",
			want: "chain passing of the nftables table inet mine drops", closed: true,
		},
		{summary: "iptables", needs: "iptables-nft", rules: forward, want: "to allow it: iptables -I FORWARD -o", closed: true},
		{summary: "docker", needs: "iptables-nft", rules: forward + "; add chain ip filter DOCKER-USER; add rule ip filter FORWARD jump DOCKER-USER", want: "to allow it: iptables -I DOCKER-USER -o", closed: true},
		{summary: "ufw", rules: forward + "; add chain ip filter ufw-before-forward", want: "to allow it: ufw route allow out on br", closed: true},
		{
			summary: "firewalld", rules: "add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }; add rule inet firewalld filter_FORWARD reject with icmpx type admin-prohibited",
			want: "to allow it: firewall-cmd --zone=trusted --add-interface=br", closed: true,
		},
		{summary: "Before nftables", needs: "iptables-legacy", rules: "add table ip x", want: "to allow it: iptables-legacy -I FORWARD -o", closed: true},
	} {
		t.Run(c.summary, func(t *testing.T) {
			inWorld(t, func(w *world) {
				for _, tool := range []string{"nft", c.needs} {
					if _, err := exec.LookPath(tool); tool != "" && err != nil {
						t.Skip(tool + " is not installed")
					}
				}
				web := w.start(NameBridge, "web", both("", 8080)...)
				w.shell("nft '" + c.rules + "'")
				if c.needs == "iptables-legacy" {
					if exec.Command("iptables-legacy", "-P", "FORWARD", "DROP").Run() != nil {
						t.Skip("the kernel has no iptables-legacy")
					}
				}
				n := mustLoad(w, NameBridge)
				line, err := w.s.Dropped(n)
				w.must(err)
				if c.want == "" && line != "" || !strings.Contains(line, c.want) || strings.Contains(line, "\n") {
					t.Errorf("it is said: %q", line)
				}
				if !c.closed {
					w.answers(w.other, hostIP, 8080, "web "+otherIP)
					return
				}
				w.silent(w.other, hostIP, 8080)
				w.answers(nil, web.ip(), 80, "web 172.17.0.1")
				// What is advised opens it, and then nothing more is said.
				_, command, _ := strings.Cut(line, "to allow it: ")
				program, _, _ := strings.Cut(command, " ")
				if _, err := exec.LookPath(program); err != nil {
					return
				}
				w.shell(strings.ReplaceAll(command, "iptables -", "iptables-nft -"))
				w.answers(w.other, hostIP, 8080, "web "+otherIP)
				if line, err := w.s.Dropped(n); err != nil || line != "" {
					t.Errorf("afterwards it is said: %q, %v", line, err)
				}
			})
		})
	}
}

func TestThePolicyOfALegacyTable(t *testing.T) {
	entry := func(verdict int32) []byte {
		b := make([]byte, 16+112+40)
		binary.NativeEndian.PutUint16(b[16+targetOffset:], 112)
		binary.NativeEndian.PutUint32(b[16+112+verdictOffset:], uint32(verdict))
		return b
	}
	for _, c := range []struct {
		summary string
		entries []byte
		at      uint32
		want    bool
	}{
		{"To drop", entry(verdictDrop), 16, true},
		{"To accept", entry(-2), 16, false},
		{"Elsewhere", entry(verdictDrop), 0, false},
		{"Behind the end", entry(verdictDrop), 1 << 31, false},
		{"Cut off", entry(verdictDrop)[:16+112+verdictOffset+3], 16, false},
		{"None", nil, 0, false},
	} {
		t.Run(c.summary, func(t *testing.T) {
			if got := legacyDrops(c.entries, c.at); got != c.want {
				t.Errorf("it drops: %v", got)
			}
		})
	}
}
