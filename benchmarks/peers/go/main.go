// go-libp2p's resource manager, for benchmarks.peers: rcmgr-peers WORK PEERS ORDER
//
// PEERS holds the peer ids, 38 bytes each. ORDER holds indices of peers, 32 bits each. The program
// connects every peer once, and prints the live bytes of its heap for each. For each line that it
// reads, it does the work once for every index, twice, and prints the nanoseconds for each of the
// second time. The time is that of its thread.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sys/unix"
)

const (
	idLength = 38
	protocol = "/ipfs/kad/1.0.0"
)

var (
	endpoint = multiaddr.StringCast("/ip4/192.0.2.1/tcp/4001")
	refused  = rcmgr.PartialLimitConfig{System: rcmgr.ResourceLimits{
		Conns: rcmgr.BlockAllLimit, ConnsInbound: rcmgr.BlockAllLimit,
		Streams: rcmgr.BlockAllLimit, StreamsInbound: rcmgr.BlockAllLimit,
	}}
)

func main() {
	work, peers, order := os.Args[1], readPeers(os.Args[2]), readOrder(os.Args[3])
	manager := newManager(rcmgr.InfiniteLimits)
	held := make([]network.ConnManagementScope, len(peers))
	before := liveBytes()
	for i, each := range peers {
		held[i] = connect(manager, each)
	}
	fmt.Printf("ready %.0f\n", (liveBytes()-before)/float64(len(peers)))
	if work == "connection refused" || work == "stream refused" {
		manager = newManager(refused.Build(rcmgr.InfiniteLimits))
	}
	run := works[work]
	runtime.LockOSThread()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		run(manager, peers, order)
		start := threadNanoseconds()
		run(manager, peers, order)
		fmt.Printf("%.1f\n", float64(threadNanoseconds()-start)/float64(len(order)))
	}
	runtime.KeepAlive(held)
}

type run func(manager network.ResourceManager, peers []peer.ID, order []uint32)

var works = map[string]run{
	"connection": func(manager network.ResourceManager, peers []peer.ID, order []uint32) {
		for _, i := range order {
			connect(manager, peers[i]).Done()
		}
	},
	"stream": func(manager network.ResourceManager, peers []peer.ID, order []uint32) {
		for _, i := range order {
			scope, err := manager.OpenStream(peers[i], network.DirInbound)
			must(err)
			must(scope.SetProtocol(protocol))
			scope.Done()
		}
	},
	"connection refused": func(manager network.ResourceManager, peers []peer.ID, order []uint32) {
		for range order {
			_, err := manager.OpenConnection(network.DirInbound, true, endpoint)
			mustFail(err)
		}
	},
	"stream refused": func(manager network.ResourceManager, peers []peer.ID, order []uint32) {
		for _, i := range order {
			_, err := manager.OpenStream(peers[i], network.DirInbound)
			mustFail(err)
		}
	},
}

func connect(manager network.ResourceManager, id peer.ID) network.ConnManagementScope {
	scope, err := manager.OpenConnection(network.DirInbound, true, endpoint)
	must(err)
	must(scope.SetPeer(id))
	return scope
}

// newManager returns a manager that counts scopes only: no metrics, no limits by address.
func newManager(limits rcmgr.ConcreteLimitConfig) network.ResourceManager {
	manager, err := rcmgr.NewResourceManager(
		rcmgr.NewFixedLimiter(limits),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithConnRateLimiters(&rate.Limiter{}),
		rcmgr.WithLimitPerSubnet([]rcmgr.ConnLimitPerSubnet{}, []rcmgr.ConnLimitPerSubnet{}),
	)
	must(err)
	return manager
}

func readPeers(path string) []peer.ID {
	data, err := os.ReadFile(path)
	must(err)
	ids := make([]peer.ID, len(data)/idLength)
	for i := range ids {
		ids[i] = peer.ID(data[i*idLength : (i+1)*idLength])
	}
	return ids
}

func readOrder(path string) []uint32 {
	data, err := os.ReadFile(path)
	must(err)
	order := make([]uint32, len(data)/4)
	for i := range order {
		order[i] = binary.LittleEndian.Uint32(data[4*i:])
	}
	return order
}

func liveBytes() float64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}

func threadNanoseconds() int64 {
	var now unix.Timespec
	must(unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now))
	return now.Nano()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func mustFail(err error) {
	if err == nil {
		panic("not refused")
	}
}
