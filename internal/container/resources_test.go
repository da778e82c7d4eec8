package container

import (
	"strings"
	"testing"
)

func TestLimitsThatMakeNoSenseAreRefused(t *testing.T) {
	const gib = 1 << 30
	swappiness := int64(101)
	for want, r := range map[string]Resources{
		"Requested CPUs are not available - requested 1-2, available: 0-1,4":                   {CPUSet: "1-2"},
		"Requested memory nodes are not available - requested 0,1, available: 0":               {CPUSetMemory: "0,1"},
		"Minimum memory limit allowed is 6MB":                                                  {MemoryBytes: 6<<20 - 1},
		"Minimum memoryswap limit should be larger than memory limit, see usage":               {MemoryBytes: gib, MemorySwapBytes: gib - 1},
		"You should always set the Memory limit when using Memoryswap limit, see usage":        {MemorySwapBytes: gib},
		"Invalid value: 101, valid memory swappiness range is 0-100":                           {MemorySwappiness: &swappiness},
		"Minimum memory reservation allowed is 6MB":                                            {MemoryReservationBytes: 1},
		"Minimum memory limit can not be less than memory reservation limit, see usage":        {MemoryBytes: gib, MemoryReservationBytes: 2 * gib},
		"Conflicting options: Nano CPUs and CPU Period cannot both be set":                     {NanoCPUs: 1e9, CPUPeriod: 1000},
		"Conflicting options: Nano CPUs and CPU Quota cannot both be set":                      {NanoCPUs: 1e9, CPUQuota: 1000},
		"range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available":               {NanoCPUs: 2e9 + 1},
		"CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)": {CPUPeriod: 1_000_001},
		"CPU cfs quota can not be less than 1ms (i.e. 1000)":                                   {CPUQuota: 999},
		"cpu real-time runtime cannot be higher than cpu real-time period":                     {CPURealtimePeriod: 10, CPURealtimeRuntime: 11},
		"cpu real-time period and runtime cannot be negative":                                  {CPURealtimePeriod: -1},
		"Range of blkio weight is from 10 to 1000":                                             {BlockWeight: 1001},
		"Invalid value 1-0 for cpuset cpus":                                                    {CPUSet: "1-0"},
		"Invalid value 0, for cpuset mems":                                                     {CPUSetMemory: "0,"},
	} {
		if err := r.Check(Processors{Count: 2, Online: "0-1,4", Nodes: "0"}); err == nil || err.Error() != want {
			t.Errorf("%+v: %v, want %q", r, err, want)
		}
	}
	for _, r := range []Resources{
		{}, {NanoCPUs: 2e9}, {MemoryBytes: 6 << 20, MemorySwapBytes: -1}, {MemorySwapBytes: -1}, {CPUQuota: -1}, {CPUSet: "0-1,4"}, {PidsLimit: -1}, {BlockWeight: 10},
	} {
		if err := r.Check(Processors{Count: 2, Online: "0-1,4", Nodes: "0"}); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestChangeOfLimits(t *testing.T) {
	old := Resources{MemoryBytes: 64 << 20, PidsLimit: 10, CPUSet: "0", OOMKillDisable: true}
	got, err := old.Change(ResourceChange{Resources: Resources{MemoryBytes: 128 << 20, CPUShares: 5}})
	if err != nil || got.MemoryBytes != 128<<20 || got.Swap() != 256<<20 || got.CPUShares != 5 || got.PidsLimit != 10 || got.CPUSet != "0" || !got.OOMKillDisable {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = old.Change(ResourceChange{PidsGiven: true}); err != nil || got.PidsLimit != 0 {
		t.Errorf("without a limit of processes: %+v, %v", got, err)
	}
	for _, c := range []struct {
		have Resources
		ask  Resources
		want string
	}{
		{Resources{CPUPeriod: 1}, Resources{NanoCPUs: 1}, "Nano CPUs cannot be updated as CPU Period has already been set"},
		{Resources{CPUQuota: 1}, Resources{NanoCPUs: 1}, "Nano CPUs cannot be updated as CPU Quota has already been set"},
		{Resources{NanoCPUs: 1}, Resources{CPUPeriod: 1}, "CPU Period cannot be updated as NanoCPUs has already been set"},
		{Resources{NanoCPUs: 1}, Resources{CPUQuota: 1}, "CPU Quota cannot be updated as NanoCPUs has already been set"},
		{Resources{MemoryBytes: 1, MemorySwapBytes: 2}, Resources{MemoryBytes: 3}, "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"},
	} {
		if _, err := c.have.Change(ResourceChange{Resources: c.ask}); err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c, err, c.want)
		}
	}
}

func TestLimitsOfDevices(t *testing.T) {
	for _, c := range []struct {
		parse func(string) (DeviceValue, error)
		text  string
		want  uint64
		bad   []string
	}{
		{ParseWeightDevice, "/dev/a:500", 500, []string{"/dev/a", ":5", "a:500", "/dev/a:9", "/dev/a:1001", "/dev/a:x"}},
		{ParseByteRate, "/dev/a:1mb", 1 << 20, []string{"/dev/a", "/dev/a:-1", "/dev/a:x", "/a:1"}},
		{ParseOpsRate, "/dev/a:100", 100, []string{"/dev/a", "/dev/a:1mb", "/dev/a:-1"}},
	} {
		if d, err := c.parse(c.text); err != nil || d != (DeviceValue{"/dev/a", c.want}) {
			t.Errorf("%s: %+v, %v", c.text, d, err)
		}
		for _, text := range c.bad {
			if d, err := c.parse(text); err == nil {
				t.Errorf("%s is %+v", text, d)
			}
		}
	}
}

func TestDeviceRules(t *testing.T) {
	for text, want := range map[string]DeviceRule{
		"c 1:3 mr":  {"c", 1, 3, "mr"},
		"a *:* rwm": {"a", AllNumbers, AllNumbers, "rwm"},
		"b 7:* r":   {"b", 7, AllNumbers, "r"},
	} {
		if r, err := ParseDeviceRule(text); err != nil || r != want {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
	for _, text := range []string{"", "c", "c 1:3", "x 1:3 r", "c 1 r", "c -1:3 r", "c 1:3 rx", "c 1:3 rwmr", "c 1:3  r", "c 4294967296:3 r"} {
		if r, err := ParseDeviceRule(text); err == nil {
			t.Errorf("%q: %+v", text, r)
		}
	}
	for text, ok := range map[string]bool{"r": true, "rwm": true, "": false, "rx": false} {
		if DeviceAccess(text) != ok {
			t.Errorf("access %q", text)
		}
	}
}
