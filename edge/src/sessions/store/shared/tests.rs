#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod server;

use self::breaker::State;
use self::server::{Server, certificates, is_missing};
use super::*;
use keystead_program::channel::HostPort;

const LIVES: Duration = Duration::from_secs(60);
/// A port that nobody listens on (tcpmux).
const NOBODY: u16 = 1;
const VALUE: Bytes = Bytes::from_static(b"sealed");

fn config(kind: SharedKind, ports: &[u16]) -> SharedConfig {
    let address = |port: &u16| format!("127.0.0.1:{port}").parse::<HostPort>().unwrap();
    SharedConfig {
        kind,
        addresses: ports.iter().map(address).collect(),
        database: 0,
        username: None,
        password: None,
        sentinel_password: None,
        tls: None,
        prefix: "test:".to_owned(),
        // More than in production: the machine that tests may be busy.
        timeout: Duration::from_millis(200),
        breaker_failures: 3,
    }
}

fn start(config: &SharedConfig) -> SharedStore {
    SharedStore::start(config, StoreTelemetry::unregistered()).unwrap()
}

fn id(number: u8) -> SessionId {
    [number; 32]
}

/// Asks until there is that answer.
async fn answers(store: &SharedStore, id: &SessionId, expected: Result<Bytes, Miss>) {
    let begun = Instant::now();
    loop {
        let found = store.find(id).await;
        if found == expected {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{found:?} for {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Keeps until what was kept is there.
async fn keeps(store: &SharedStore, id: &SessionId) {
    let begun = Instant::now();
    loop {
        store.keep(id, VALUE, LIVES);
        tokio::time::sleep(Duration::from_millis(50)).await;
        if store.find(id).await == Ok(VALUE) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}

#[tokio::test]
async fn what_one_edge_keeps_another_finds() {
    if is_missing() {
        return;
    }
    let server = Server::start(&[]);
    let config = config(SharedKind::Single, &[server.port()]);
    let [one, two] = [start(&config), start(&config)];
    answers(&two, &id(1), Err(Miss::SharedNotFound)).await;
    keeps(&one, &id(1)).await;
    answers(&two, &id(1), Ok(VALUE)).await;
    two.forget(&id(1));
    answers(&one, &id(1), Err(Miss::SharedNotFound)).await;
    assert_eq!(one.telemetry.breaker.get(), State::Closed as i64);
}

#[tokio::test]
async fn what_the_server_holds_expires_and_has_no_id() {
    if is_missing() {
        return;
    }
    let server = Server::start(&[]);
    let store = start(&config(SharedKind::Single, &[server.port()]));
    keeps(&store, b"an id of thirty-two bytes, plain").await;
    let keys = server.cli(&["keys", "*"]);
    assert!(keys.starts_with("test:") && keys.trim().len() == 5 + 64, "{keys}");
    let lives: u64 = server.cli(&["pttl", keys.trim()]).trim().parse().unwrap();
    assert!((50_000..=60_000).contains(&lives), "{lives}");
    store.keep(&id(2), VALUE, Duration::from_secs(3));
    answers(&store, &id(2), Ok(VALUE)).await;
    answers(&store, &id(2), Err(Miss::SharedNotFound)).await;
    store.keep(&id(3), Bytes::from(vec![7; LONGEST_VALUE + 1]), LIVES);
    assert_eq!(store.telemetry.drops(Store::Shared, Dropped::TooLarge), 1);
}

#[tokio::test]
async fn a_slow_server_costs_the_budget_until_the_breaker_opens() {
    if is_missing() {
        return;
    }
    let server = Server::start(&[]);
    let store = start(&config(SharedKind::Single, &[server.port()]));
    keeps(&store, &id(1)).await;
    server.stop();
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(store.find(&id(1)).await, Err(Miss::SharedSlow));
        let elapsed = begun.elapsed();
        assert!(elapsed >= store.budget && elapsed < store.budget * 20, "{elapsed:?}");
    }
    assert_eq!(store.telemetry.breaker.get(), State::Open as i64);
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(store.find(&id(1)).await, Err(Miss::SharedBreakerOpen));
    }
    // Together they would have cost a hundred times the budget.
    assert!(begun.elapsed() < store.budget * 20, "{:?}", begun.elapsed());
    store.keep(&id(2), VALUE, LIVES);
    let telemetry = store.telemetry.clone();
    until(|| telemetry.drops(Store::Shared, Dropped::Unavailable) == 1).await;
    until(|| telemetry.breaker.get() == State::HalfOpen as i64).await;
    assert_eq!(store.find(&id(1)).await, Err(Miss::SharedBreakerOpen));
    server.go_on();
    answers(&store, &id(1), Ok(VALUE)).await;
    assert_eq!(store.telemetry.breaker.get(), State::Closed as i64);
}

async fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_server_that_dies_and_comes_back_is_used_again() {
    if is_missing() {
        return;
    }
    let mut server = Server::start(&[]);
    let store = start(&config(SharedKind::Single, &[server.port()]));
    keeps(&store, &id(1)).await;
    server.kill();
    answers(&store, &id(1), Err(Miss::SharedBreakerOpen)).await;
    server.restart();
    // It had nothing on disk.
    answers(&store, &id(1), Err(Miss::SharedNotFound)).await;
    keeps(&store, &id(1)).await;
}

/// Connections that the server ever took.
fn connections(server: &Server) -> u64 {
    let stats = server.cli(&["info", "stats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_connection_that_is_lost_under_load_is_replaced_once() {
    if is_missing() {
        return;
    }
    let server = Server::start(&[]);
    let patient = SharedConfig { timeout: Duration::from_secs(1), ..config(SharedKind::Single, &[server.port()]) };
    let store = Arc::new(start(&patient));
    keeps(&store, &id(1)).await;
    let asked = store.clone();
    let load = tokio::spawn(async move {
        loop {
            let _ = asked.find(&id(1)).await;
            tokio::task::yield_now().await;
        }
    });
    let before = connections(&server);
    server.cli(&["client", "kill", "type", "normal"]);
    until_async(|| async { store.find(&id(1)).await.is_err() }).await;
    assert_eq!(store.telemetry.breaker.get(), State::Closed as i64);
    answers(&store, &id(1), Ok(VALUE)).await;
    let begun = Instant::now();
    let mut hits = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(store.find(&id(1)).await, Ok(VALUE), "after {hits}");
        hits += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Two that killed and asked, and the one that replaced what was lost.
    assert_eq!(connections(&server) - before, 3);
    load.abort();
}

#[tokio::test]
async fn a_forget_that_is_lost_is_counted_by_its_name() {
    let store = start(&config(SharedKind::Single, &[NOBODY]));
    answers(&store, &id(1), Err(Miss::SharedBreakerOpen)).await;
    store.keep(&id(1), VALUE, LIVES);
    store.forget(&id(1));
    let lost = || store.telemetry.lost_forgets.get();
    until(|| lost() == 1).await;
    assert_eq!(store.telemetry.drops(Store::Shared, Dropped::Unavailable), 2);
    // Nothing else runs on this thread meanwhile.
    (0..MOST_WRITES).for_each(|_| store.keep(&id(1), VALUE, LIVES));
    store.forget(&id(1));
    assert_eq!(lost(), 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_down() {
    let store = start(&config(SharedKind::Single, &[NOBODY]));
    assert_eq!(store.find(&id(1)).await, Err(Miss::SharedDown));
    answers(&store, &id(1), Err(Miss::SharedBreakerOpen)).await;
}

#[tokio::test]
async fn more_than_waits_is_dropped() {
    let store = start(&config(SharedKind::Single, &[NOBODY]));
    // Nothing else runs on this thread meanwhile.
    (0..MOST_WRITES + 3).for_each(|_| store.keep(&id(1), VALUE, LIVES));
    assert_eq!(store.telemetry.drops(Store::Shared, Dropped::QueueFull), 3);
}

#[tokio::test]
async fn a_password_and_tls_are_used() {
    if is_missing() {
        return;
    }
    let files = certificates();
    let path = |name: &str| files.path().join(name).display().to_string();
    let server = Server::start(&[
        "--requirepass",
        "letmein",
        "--tls-port",
        "PORT",
        "--port",
        "0",
        "--tls-cert-file",
        &path("server.pem"),
        "--tls-key-file",
        &path("server.key"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    let read = |name: &str| std::fs::read(files.path().join(name)).unwrap();
    let tls = |roots| Some(SharedTls { trust_roots: read(roots), own: None });
    let password = |text: &str| Some(Secret::new(text.to_owned()));
    let plain = config(SharedKind::Single, &[server.port()]);
    let good = SharedConfig { tls: tls("ca.pem"), password: password("letmein"), ..plain.clone() };
    keeps(&start(&good), &id(1)).await;
    let wrong_password = SharedConfig { password: password("letmeout"), ..good.clone() };
    let wrong_roots = SharedConfig { tls: tls("other.pem"), ..good.clone() };
    for bad in [plain, wrong_password, wrong_roots] {
        answers(&start(&bad), &id(1), Err(Miss::SharedBreakerOpen)).await;
    }
}

#[tokio::test]
async fn sentinels_name_the_master_also_after_it_died() {
    if is_missing() {
        return;
    }
    let mut master = Server::start(&[]);
    let replica = Server::start(&["--replicaof", "127.0.0.1", &master.port().to_string()]);
    let sentinel = Server::sentinel("main", master.port());
    let store = start(&config(SharedKind::Sentinel { master_name: "main".to_owned() }, &[sentinel.port()]));
    keeps(&store, &id(1)).await;
    until(|| replica.cli(&["dbsize"]).trim() == "1").await;
    until(|| sentinel.cli(&["sentinel", "replicas", "main"]).contains(&replica.port().to_string())).await;
    master.kill();
    until(|| replica.cli(&["role"]).starts_with("master")).await;
    answers(&store, &id(1), Ok(VALUE)).await;
    keeps(&store, &id(2)).await;
}

#[tokio::test]
async fn a_cluster_holds_keys_of_every_slot_and_a_lost_server_loses_its_own_alone() {
    if is_missing() {
        return;
    }
    let mut servers: Vec<_> = (0..3).map(|_| Server::clustered()).collect();
    server::make_cluster(&servers);
    let ports: Vec<_> = servers.iter().map(Server::port).collect();
    let store = start(&config(SharedKind::Cluster, &ports));
    for number in 0..30 {
        keeps(&store, &id(number)).await;
    }
    let sizes: Vec<u32> = servers.iter().map(|server| server.cli(&["dbsize"]).trim().parse().unwrap()).collect();
    assert!(sizes.iter().all(|size| *size > 0) && sizes.iter().sum::<u32>() == 30, "{sizes:?}");
    // Without replicas the cluster as a whole goes down with any of its servers; edges go on.
    servers[0].kill();
    until_async(|| async { any_miss(&store).await }).await;
    servers[0].restart();
    until_async(|| async { matches!(store.find(&id(0)).await, Ok(_) | Err(Miss::SharedNotFound)) }).await;
    keeps(&store, &id(100)).await;
}

async fn any_miss(store: &SharedStore) -> bool {
    for number in 0..30 {
        if store.find(&id(number)).await.is_err() {
            return true;
        }
    }
    false
}

async fn until_async<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
