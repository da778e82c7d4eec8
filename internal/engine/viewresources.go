package engine

import (
	"strconv"

	"berth/internal/container"
	"berth/internal/state"
)

// ViewResources are a container's limits, and devices, as docker's inspect shows them among its HostConfig.
type ViewResources struct {
	CPUShares            uint64 `json:"CpuShares"`
	Memory               int64
	NanoCPUs             int64 `json:"NanoCpus"`
	CgroupParent         string
	BlkioWeight          uint16
	BlkioWeightDevice    []ViewWeight
	BlkioDeviceReadBps   []ViewRate
	BlkioDeviceWriteBps  []ViewRate
	BlkioDeviceReadIOps  []ViewRate
	BlkioDeviceWriteIOps []ViewRate
	CPUPeriod            int64 `json:"CpuPeriod"`
	CPUQuota             int64 `json:"CpuQuota"`
	CPURealtimePeriod    int64 `json:"CpuRealtimePeriod"`
	CPURealtimeRuntime   int64 `json:"CpuRealtimeRuntime"`
	CpusetCpus           string
	CpusetMems           string
	Devices              []ViewDevice
	DeviceCgroupRules    []string
	DeviceRequests       []ViewRequest
	Ulimits              []ViewUlimit
	MemoryReservation    int64
	MemorySwap           int64
	MemorySwappiness     *int64
	OomKillDisable       *bool
	PidsLimit            *int64
	// Of Windows.
	CPUCount           int64 `json:"CpuCount"`
	CPUPercent         int64 `json:"CpuPercent"`
	IOMaximumIOps      uint64
	IOMaximumBandwidth uint64
}

// ViewWeight, ViewRate, ViewRequest, ViewUlimit and ViewDevice are parts of ViewResources.
type (
	ViewWeight struct {
		Path   string
		Weight uint64
	}
	ViewRate struct {
		Path string
		Rate uint64
	}
	ViewRequest struct {
		Driver       string
		Count        int
		DeviceIDs    []string
		Capabilities [][]string
		Options      map[string]string
	}
	ViewUlimit struct {
		Name string
		Soft int64
		Hard int64
	}
	ViewDevice struct{ PathOnHost, PathInContainer, CgroupPermissions string }
)

func viewResources(c container.Config) ViewResources {
	r := c.Resources
	v := ViewResources{
		CPUShares: r.CPUShares, Memory: r.MemoryBytes, NanoCPUs: r.NanoCPUs, CgroupParent: c.CgroupParent, BlkioWeight: r.BlockWeight, BlkioWeightDevice: []ViewWeight{},
		BlkioDeviceReadBps: viewRates(r.BlockReadBytes), BlkioDeviceWriteBps: viewRates(r.BlockWriteBytes),
		BlkioDeviceReadIOps: viewRates(r.BlockReadOps), BlkioDeviceWriteIOps: viewRates(r.BlockWriteOps),
		CPUPeriod: r.CPUPeriod, CPUQuota: r.CPUQuota, CPURealtimePeriod: r.CPURealtimePeriod, CPURealtimeRuntime: r.CPURealtimeRuntime,
		CpusetCpus: r.CPUSet, CpusetMems: r.CPUSetMemory, Devices: []ViewDevice{}, Ulimits: []ViewUlimit{}, DeviceCgroupRules: c.DeviceRules,
		MemoryReservation: r.MemoryReservationBytes, MemorySwap: r.Swap(), MemorySwappiness: r.MemorySwappiness,
	}
	if r.OOMKillDisable {
		v.OomKillDisable = &r.OOMKillDisable
	}
	if r.PidsLimit != 0 {
		v.PidsLimit = &r.PidsLimit
	}
	for _, d := range r.BlockWeightDevices {
		v.BlkioWeightDevice = append(v.BlkioWeightDevice, ViewWeight{d.Path, d.Value})
	}
	for _, d := range c.Devices {
		v.Devices = append(v.Devices, ViewDevice{d.Host, d.Path, d.Permissions})
	}
	for _, u := range c.Ulimits {
		v.Ulimits = append(v.Ulimits, ViewUlimit(u))
	}
	for _, r := range c.Requests {
		request := ViewRequest{Driver: r.Driver, Count: r.Count, DeviceIDs: r.IDs, Options: r.Options}
		if r.Capabilities != nil {
			request.Capabilities = [][]string{r.Capabilities}
		}
		v.DeviceRequests = append(v.DeviceRequests, request)
	}
	return v
}

func viewRates(of []container.DeviceValue) []ViewRate {
	rates := []ViewRate{}
	for _, d := range of {
		rates = append(rates, ViewRate{d.Path, d.Value})
	}
	return rates
}

// viewLinks are a container's links in docker's form: the path of the other one's name, and that of its name here.
func (e *Engine) viewLinks(c *state.Container) []string {
	var links []string
	for _, l := range c.Config.Links {
		name := l.Container
		if linked, err := e.Containers.Load(l.Container); err == nil {
			name = linked.Name
		}
		links = append(links, "/"+name+":/"+c.Name+"/"+l.Alias)
	}
	return links
}

func storageOptions(c container.Config) map[string]string {
	if c.StorageBytes == 0 {
		return nil
	}
	return map[string]string{"size": strconv.FormatInt(c.StorageBytes, 10)}
}
