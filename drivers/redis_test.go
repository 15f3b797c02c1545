package drivers_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/duxweb/go-ws/core"
	"github.com/duxweb/go-ws/drivers"
	"github.com/duxweb/go-ws/drivers/drivertest"
	"github.com/duxweb/go-ws/internal/redistest"
)

// prefixes makes a prefix for each case: they share a server.
var prefixes atomic.Int64

func newRedis(t testing.TB, options drivers.RedisOptions) core.Driver {
	t.Helper()
	driver, err := drivers.NewRedisDriver(&options)
	if err != nil {
		t.Fatal(err)
	}
	return driver
}

func TestRedisDriver(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		t.Helper()
		options := drivers.RedisOptions{Addr: server.Addr(), Prefix: fmt.Sprint("test ", prefixes.Add(1))}
		return drivertest.Harness{Driver: func() core.Driver { return newRedis(t, options) }, Restart: server.Restart}
	})
}

func TestRedisDriverWithSentinel(t *testing.T) {
	t.Parallel()
	client := redis.NewFailoverClient(redistest.StartFailover(t).Options())
	t.Cleanup(func() { _ = client.Close() })
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		t.Helper()
		options := drivers.RedisOptions{Client: client, Prefix: fmt.Sprint("test ", prefixes.Add(1))}
		return drivertest.Harness{Driver: func() core.Driver { return newRedis(t, options) }}
	})
}

func TestRedisDriverOnACluster(t *testing.T) {
	t.Parallel()
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: redistest.StartCluster(t, 3, 0).Addrs()})
	t.Cleanup(func() { _ = client.Close() })
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		t.Helper()
		options := drivers.RedisOptions{Client: client, Prefix: fmt.Sprint("test ", prefixes.Add(1))}
		return drivertest.Harness{Driver: func() core.Driver { return newRedis(t, options) }}
	})
}
