package redistest_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/internal/redistest"
)

func TestTheFailoverPromotesTheReplica(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	f := redistest.StartFailover(t)
	t.Logf("started in %v", time.Since(begin))
	if got, want := f.MasterAddr(), f.Master().Addr(); got != want {
		t.Fatalf("the master is %s, want %s", got, want)
	}
	client := redis.NewFailoverClient(f.Options())
	defer client.Close()
	if err := client.Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica has the key", func() bool { return f.Replica().CLI("EXISTS", "key") == "1" })

	begin = time.Now()
	f.Master().Kill()
	eventually(t, "the replica is the master", func() bool { return f.MasterAddr() == f.Replica().Addr() })
	t.Logf("failed over in %v", time.Since(begin))
	eventually(t, "the client writes to it", func() bool {
		return client.Set(t.Context(), "key", "other", 0).Err() == nil && f.Replica().CLI("GET", "key") == "other"
	})

	f.Master().Restart()
	eventually(t, "the old master is a replica in sync", func() bool { return f.Master().CLI("GET", "key") == "other" })
	t.Logf("old master in sync after %v", time.Since(begin))
	f.Sentinels()[0].Kill()
	if got, want := f.MasterAddr(), f.Replica().Addr(); got != want {
		t.Errorf("another sentinel says %s, want %s", got, want)
	}
}
