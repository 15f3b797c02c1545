package drivers_test

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/internal/redistest"
)

func TestTheNodesFollowAFailoverOfSentinel(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(x *trial){
		"the master is killed": func(x *trial) {
			failsOver(x, (*redistest.Server).Kill, (*redistest.Server).Restart)
		},
		"the master hangs and comes back": func(x *trial) {
			failsOver(x, (*redistest.Server).Pause, (*redistest.Server).Resume)
		},
	})
}

func failsOver(x *trial, goes, comes func(*redistest.Server)) {
	f := redistest.StartFailover(x.T)
	client := redis.NewFailoverClient(f.Options())
	x.Cleanup(func() { _ = client.Close() })
	driver := newRedis(x.T, drivers.RedisOptions{Client: client})
	nodes := []*local{run(x.T, driver), run(x.T, driver)}
	crowd(x, nodes...)
	x.begins()
	x.outage(func() {
		goes(f.Master())
		if !within(recovery, func() bool { return f.MasterAddr() == f.Replica().Addr() }) {
			x.Error("Sentinel does not fail over")
		}
	}, nodes...)

	// It holds itself for the master, until Sentinel tells it that it is a replica now.
	mark := x.mark()
	comes(f.Master())
	old := f.Master().Client() // and no CLI, whose failure is the test's: Sentinel closes all connections when it tells it
	if !within(recovery, func() bool {
		role, err := old.Do(x.Context(), "ROLE").Slice()
		return err == nil && role[0] == "slave"
	}) {
		x.Error("the old master is not a replica")
	}
	x.settles(time.Now(), recovery, x.healthy)
	x.never("leave", mark)
	x.never("gap", mark)
}

func TestTheNodesFollowTheSlotsOfACluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 1)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
	t.Cleanup(func() { _ = client.Close() })
	driver := newRedis(t, drivers.RedisOptions{Client: client})
	nodes := []*local{run(t, driver), run(t, driver)}
	x := &trial{T: t}
	crowd(x, nodes...)
	for i := range 30 { // in each lane
		nodes[i%2].in(fmt.Sprint("client ", i), fmt.Sprint("channel ", i))
	}
	x.begins()

	mark := x.mark()
	stop := make(chan struct{})
	var pushing sync.WaitGroup // ends with stop
	for i := range 30 {
		pushing.Go(func() {
			for n := 0; ; n++ {
				if err := nodes[n%2].push(fmt.Sprint("channel ", i), fmt.Sprintf("%d while it moves", n)); err != nil {
					t.Errorf("a Push failed while its slot moved: %v", err)
				}
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	for _, lane := range []int{0, 7} {
		move(t, c, fmt.Sprintf("ws:{%d}:", lane))
	}
	moved := time.Now()
	close(stop)
	pushing.Wait()
	x.settles(moved, 3*time.Second, x.healthy) // the probe of a subscription would take longer
	x.never("leave", mark)

	base := fmt.Sprintf("ws:{%d}:", laneOf("one"))
	master := c.MasterOf(base)
	mark = x.mark()
	interested := marks{} // a gap may be told in the lanes of this master alone
	for who, p := range mark {
		if slices.Contains(p.Channels, "one") {
			p.Channels = []string{"one"}
			interested[who] = p
		}
	}
	begin := time.Now()
	master.Kill()
	c.MasterOf(base) // now its replica
	t.Logf("failed over in %v", time.Since(begin).Round(time.Millisecond))
	x.settles(time.Now(), recovery, x.healthy, x.gap(interested))
	x.never("leave", mark)
}

// laneOf returns the lane of a channel, as the driver has it.
func laneOf(channel string) uint32 { return crc32.ChecksumIEEE([]byte(":"+channel)) % 16 }

// move moves the slot of a key to another master, with all that is in it.
func move(t *testing.T, c *redistest.Cluster, key string) {
	t.Helper()
	from := c.MasterOf(key)
	to := c.Servers()[0]
	if to == from {
		to = c.Servers()[1]
	}
	slot := from.CLI("CLUSTER", "KEYSLOT", key)
	fromID, toID := from.CLI("CLUSTER", "MYID"), to.CLI("CLUSTER", "MYID")
	to.CLI("CLUSTER", "SETSLOT", slot, "IMPORTING", fromID)
	from.CLI("CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	host, port, _ := strings.Cut(to.Addr(), ":")
	for {
		key := from.CLI("CLUSTER", "GETKEYSINSLOT", slot, "1")
		if key == "" {
			break
		}
		from.CLI("MIGRATE", host, port, key, "0", "5000")
	}
	for _, s := range []*redistest.Server{to, from, c.Servers()[0], c.Servers()[1], c.Servers()[2]} {
		s.CLI("CLUSTER", "SETSLOT", slot, "NODE", toID)
	}
}
