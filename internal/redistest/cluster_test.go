package redistest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/duxweb/go-ws/internal/redistest"
)

func TestTheClusterSurvivesTheDeathOfAMaster(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	c := redistest.StartCluster(t, 3, 1)
	t.Logf("started in %v", time.Since(begin))
	asked := c.Servers()[0]
	if got := asked.CLI("-c", "SET", "key", "value"); got != "OK" {
		t.Fatalf("SET: %q", got)
	}
	master := c.MasterOf("key")
	if master != c.Servers()[2] { // slot 12539
		t.Errorf("the key is on %s, not on the third of %v", master.Addr(), c.Addrs())
	}
	replica := c.Servers()[5]
	eventually(t, "the replica has the key", func() bool { return replica.CLI("DBSIZE") == "1" })

	begin = time.Now()
	master.Kill()
	if c.MasterOf("key") != replica {
		t.Error("another than the replica has taken over")
	}
	t.Logf("failed over in %v", time.Since(begin))
	eventually(t, "the cluster serves the key", func() bool {
		// It errs while the node that is asked has not heard of the new master, or holds the cluster for down.
		return strings.Contains(asked.CLI("CLUSTER", "INFO"), "cluster_state:ok") && asked.CLI("-c", "GET", "key") == "value"
	})

	master.Restart()
	eventually(t, "the old master is a replica in sync", func() bool { return master.CLI("DBSIZE") == "1" })
	if c.MasterOf("key") != replica {
		t.Error("the old master has taken over again")
	}
}

func TestAClusterNeedsNoReplicas(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, 0)
	for i, key := range []string{"b", "c", "a"} { // slots 3300, 7365, 15495
		if got := c.MasterOf(key); got != c.Servers()[i] {
			t.Errorf("%s is on %s, not on number %d of %v", key, got.Addr(), i, c.Addrs())
		}
	}
}
