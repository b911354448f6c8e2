#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::time::sleep;

use super::name::tests::Answers;
use super::*;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn limits() -> Limits {
    let long = Duration::from_secs(20);
    Limits { connect_timeout: long, backend_timeout: long, ..Limits::default() }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address that nobody else gets, and that refuses connections until the socket listens.
pub(super) fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn config(addresses: &[String]) -> BackendsConfig {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let resolve_interval = Duration::from_millis(10);
    BackendsConfig { resolve_interval, ..BackendsConfig::new(addresses) }
}

fn reached(connected: &Connected) -> SocketAddr {
    match &connected.stream {
        target::BackendStream::Tcp(stream) => stream.peer_addr().unwrap(),
        target::BackendStream::Unix(_) => panic!("TCP"),
    }
}

fn tally(backends: &Backends, index: usize) -> (u64, u64) {
    let tally = &backends.members()[index];
    (tally.tally().connections(), tally.tally().failures().map(|(_, count)| count).sum())
}

#[tokio::test]
async fn backends_take_turns_and_one_that_is_down_is_passed_over() {
    let ((_one, one_address), (_two, two_address)) = (listener().await, listener().await);
    let (_down, down_address) = refusing();
    let addresses = [one_address, down_address, two_address].map(|address| address.to_string());
    let backends = Backends::new("host".to_owned(), config(&addresses), &Arc::default());
    let mut counts = [0, 0];
    for _ in 0..12 {
        let connected = backends.connect(CLIENT, b"", &limits()).await.unwrap();
        counts[usize::from(reached(&connected) == two_address)] += 1;
    }
    // It was tried when its turn came, until it was left alone.
    let (connections, failures) = tally(&backends, 1);
    assert!(connections == 0 && failures >= u64::from(ejection::FAILURES), "{failures}");
    assert_eq!(counts.iter().sum::<u64>(), 12);
    assert_eq!([tally(&backends, 0).0, tally(&backends, 2).0], counts);
    assert!(counts.iter().all(|count| *count >= 3), "{counts:?}");
}

#[tokio::test]
async fn with_all_down_all_are_tried_and_one_that_returns_is_found_at_once() {
    let (socket, address) = refusing();
    let addresses = [address.to_string(), "127.0.0.1:1".to_owned()];
    let backends = Backends::new("host".to_owned(), config(&addresses), &Arc::default());
    for _ in 0..10 {
        assert!(backends.connect(CLIENT, b"", &limits()).await.is_none());
    }
    assert_eq!([tally(&backends, 0), tally(&backends, 1)], [(0, 10); 2]);
    let _listener = socket.listen(16).unwrap();
    assert!(backends.connect(CLIENT, b"", &limits()).await.is_some());
    assert!(backends.members()[0].is_well() && !backends.members()[1].is_well());
}

#[tokio::test]
async fn the_bound_on_all_tries_holds() {
    let directory = tempfile::tempdir().unwrap();
    // Sockets whose queues are full, which is waited for.
    let full = |name: &str| {
        let path = directory.path().join(name);
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let filling = std::os::unix::net::UnixStream::connect(&path).unwrap();
        (socket, filling, format!("unix:{}", path.display()))
    };
    let sockets = ["a", "b", "c", "d"].map(full);
    let addresses = sockets.each_ref().map(|(_, _, address)| address.clone());
    let backends = Backends::new("host".to_owned(), config(&addresses), &Arc::default());
    let limits = Limits {
        connect_timeout: Duration::from_millis(100),
        backend_timeout: Duration::from_millis(250),
        ..Limits::default()
    };
    assert!(backends.connect(CLIENT, b"", &limits).await.is_none());
    let tried: Vec<_> = (0..4).map(|index| tally(&backends, index).1).collect();
    assert_eq!(tried[3], 0, "{tried:?}");
}

#[tokio::test]
async fn a_name_stands_for_all_its_addresses_as_they_change() {
    let ((_one, one_address), (_two, two_address)) = (listener().await, listener().await);
    let answers = Answers::default();
    answers.set([one_address, two_address]);
    let pool = Arc::new(Pool::with_resolver(answers.resolver()));
    let backends = Backends::new("host".to_owned(), config(&["app.test:80".to_owned()]), &pool);
    assert!(backends.members().is_empty());
    // The first connection waits for the lookup.
    let first = reached(&backends.connect(CLIENT, b"", &limits()).await.unwrap());
    let second = reached(&backends.connect(CLIENT, b"", &limits()).await.unwrap());
    assert_ne!(first, second);
    let kept =
        backends.members().iter().find(|member| *member.endpoint().target() == Target::Tcp(two_address)).cloned();

    answers.set([two_address]);
    until(&backends, |list| list.len() == 1).await;
    assert!(Arc::ptr_eq(&backends.members()[0], &kept.unwrap()));
    assert_eq!(reached(&backends.connect(CLIENT, b"", &limits()).await.unwrap()), two_address);

    // A name that is not found any more keeps its addresses.
    answers.fail();
    let name = backends.names().next().unwrap().clone();
    while name.failures() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(reached(&backends.connect(CLIENT, b"", &limits()).await.unwrap()), two_address);
}

async fn until(backends: &Backends, condition: impl Fn(&[Arc<Member>]) -> bool) {
    backends.members.subscribe().wait_for(|members| condition(&members.list)).await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_unknown_from_the_first_fails_at_once_and_is_found_later() {
    let (_listener, address) = listener().await;
    let answers = Answers::default();
    let pool = Arc::new(Pool::with_resolver(answers.resolver()));
    let backends = Backends::new("host".to_owned(), config(&["app.test:80".to_owned()]), &pool);
    for _ in 0..3 {
        assert!(backends.connect(CLIENT, b"", &limits()).await.is_none());
    }
    answers.set([address]);
    until(&backends, |list| !list.is_empty()).await;
    assert!(backends.connect(CLIENT, b"", &limits()).await.is_some());
}

#[tokio::test]
async fn a_name_without_addresses_does_not_hold_up_other_backends() {
    let (_listener, address) = listener().await;
    let pool = Arc::new(Pool::with_resolver(Answers::default().resolver()));
    let addresses = ["app.test:80".to_owned(), address.to_string()];
    let backends = Backends::new("host".to_owned(), config(&addresses), &pool);
    assert_eq!(reached(&backends.connect(CLIENT, b"", &limits()).await.unwrap()), address);
}

#[tokio::test]
async fn what_is_known_outlives_a_configuration_that_keeps_the_backend() {
    let (_gone, gone_address) = refusing();
    let (_listener, address) = listener().await;
    let pool = Arc::new(Pool::default());
    let addresses = [gone_address, address].map(|address| address.to_string());
    let before = Backends::new("host".to_owned(), config(&addresses), &pool);
    let mut standing = Vec::new();
    for _ in 0..8 {
        standing.push(before.connect(CLIENT, b"", &limits()).await.unwrap());
    }
    let counted = [tally(&before, 0), tally(&before, 1)];
    let other = BackendsConfig { balance: balance::Balance::LeastConnections, ..config(&addresses) };
    let after = Backends::new("host".to_owned(), other, &pool);
    drop(before);
    assert_eq!([tally(&after, 0), tally(&after, 1)], counted);
    assert!(!after.members()[0].is_well());
    assert_eq!(after.members()[1].endpoint().live(), 8);
    // Another host shares the endpoint and counts for itself.
    let beside = Backends::new("beside".to_owned(), config(&addresses), &pool);
    assert!(!beside.members()[0].is_well());
    assert_eq!(tally(&beside, 0), (0, 0));
    drop(standing);
    assert_eq!(beside.members()[1].endpoint().live(), 0);
}

#[tokio::test]
async fn checks_of_one_endpoint_run_once_for_all_hosts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let pool = Arc::new(Pool::default());
    let checked = BackendsConfig {
        health_check: Some(config::HealthCheck::default()),
        ..config(&[format!("unix:{}", path.display())])
    };
    let hosts: Vec<_> = (0..5).map(|host| Backends::new(host.to_string(), checked.clone(), &pool)).collect();
    listener.accept().await.unwrap();
    let checks = hosts.iter().map(|backends| std::ptr::from_ref(backends.members()[0].check().unwrap()));
    assert_eq!(checks.collect::<HashSet<_>>().len(), 1);
}

#[tokio::test]
async fn a_backend_that_leaves_before_it_hears_whose_connection_it_is_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let leaving = UnixListener::bind(&path).unwrap();
    let (staying, address) = listener().await;
    let addresses = [format!("unix:{}", path.display()), address.to_string()];
    let backends = Backends::new("host".to_owned(), config(&addresses), &Arc::default());
    // Longer than the kernel holds for who does not accept.
    let header = vec![0; 16 << 20];
    let leave = async {
        sleep(Duration::from_millis(50)).await;
        drop(leaving);
    };
    let hear = async {
        let mut heard = Vec::new();
        staying.accept().await.unwrap().0.take(16 << 20).read_to_end(&mut heard).await.unwrap();
        heard
    };
    let limits = limits();
    let (connected, heard, ()) = tokio::join!(backends.connect(CLIENT, &header, &limits), hear, leave);
    assert_eq!(reached(&connected.unwrap()), address);
    assert!(heard == header);
    assert_eq!([tally(&backends, 0), tally(&backends, 1)], [(0, 1), (1, 0)]);
}

#[tokio::test]
async fn metrics_tell_what_is_in_force() {
    let (_listener, address) = listener().await;
    let mut registry = prometheus_client::registry::Registry::default();
    let pool = Pool::register(&mut registry);
    let addresses = [address.to_string(), "127.0.0.1:1".to_owned()];
    let backends = Backends::new("a.example".to_owned(), config(&addresses), &pool);
    let mut standing = Vec::new();
    for _ in 0..8 {
        standing.push(backends.connect(CLIENT, b"", &limits()).await.unwrap());
    }
    let text = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    };
    let of_down = "host=\"a.example\",backend=\"127.0.0.1:1\"";
    let of_up = format!("host=\"a.example\",backend=\"{address}\"");
    for line in [
        format!("keystead_edge_backend_up{{{of_up}}} 1\n"),
        format!("keystead_edge_backend_up{{{of_down}}} 0\n"),
        format!("keystead_edge_backend_connections{{{of_up}}} 8\n"),
        format!("keystead_edge_backend_connects_total{{{of_up}}} 8\n"),
        format!("keystead_edge_backend_connect_failures_total{{{of_down},reason=\"refused\"}} "),
    ] {
        assert!(text().contains(&line), "{line}{}", text());
    }
    let without = Backends::new("a.example".to_owned(), config(&addresses[..1]), &pool);
    assert!(!text().contains("127.0.0.1:1"));
    drop((backends, without));
    assert!(!text().contains("a.example"));
}
