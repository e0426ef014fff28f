// A go-libp2p host for benchmarks.siege: siege-node PLACES. Its resource manager admits so many
// inbound connections, and its connection manager trims at three quarters of them.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func say(values map[string]any) {
	text, err := json.Marshal(values)
	check(err)
	fmt.Println(string(text))
}

func main() {
	places, err := strconv.Atoi(os.Args[1])
	check(err)
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{ConnsInbound: rcmgr.LimitVal(places)},
		// the default of the benchmark's other nodes
		Transient: rcmgr.ResourceLimits{ConnsInbound: 64},
	}.Build(rcmgr.DefaultLimits.AutoScale())
	unlimited := rcmgr.WithLimitPerSubnet(nil, nil)
	resources, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits), unlimited)
	check(err)
	connections, err := connmgr.NewConnManager(places*3/4, places, connmgr.WithGracePeriod(time.Minute))
	check(err)
	host, err := libp2p.New(
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.ResourceManager(resources),
		libp2p.ConnectionManager(connections),
	)
	check(err)
	addresses, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: host.ID(), Addrs: host.Addrs()})
	check(err)
	say(map[string]any{"address": addresses[0].String()})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		descriptors, err := os.ReadDir("/proc/self/fd")
		check(err)
		say(map[string]any{"descriptors": len(descriptors), "tasks": runtime.NumGoroutine()})
	}
}
