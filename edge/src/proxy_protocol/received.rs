//! The header with which a load balancer says on whose behalf it connects.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use strum::IntoStaticStr;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Ends, SIGNATURE, TrustedProxies};
use crate::buffer::Lent;
use crate::socket;

/// What every header of version 1 begins with.
const V1_BEGIN: &[u8] = b"PROXY ";
/// The longest header of version 1, with its end of line.
const V1_LONGEST: usize = 107;
/// The part of a header of version 2 that says how long the rest is.
const V2_FIXED: usize = 16;
/// The longest header of version 2 that is taken: as much as HAProxy takes by default.
const LONGEST: usize = 16 * 1024;

/// A connection as it begins: whose it is, and what came of it so far.
#[derive(Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The client's end and the end that it connected to, as far as anybody trusted says.
    pub ends: Ends,
    /// What came behind the header.
    pub unread: Vec<u8>,
}

/// Why nothing is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoArrival {
    /// It was closed before a byte came: somebody looked whether the port is open.
    NothingSent,
    /// It did not begin as it must.
    Failed(HeaderFailure),
}

/// What was wrong with the header of a connection that must have one. Whoever sends it is trusted by the configuration,
/// so one of the two is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", prefix = "proxy_header_")]
pub enum HeaderFailure {
    /// The connection begins otherwise than any header.
    Missing,
    /// It begins like a header and breaks its rules.
    Malformed,
    /// It says that it is longer than any that is taken.
    TooLong,
    /// The connection was closed in the middle of it.
    Truncated,
    /// It was not complete in time.
    TimedOut,
}

impl HeaderFailure {
    /// The word by which log and metric name this cause.
    pub fn reason(self) -> &'static str {
        self.into()
    }
}

impl From<HeaderFailure> for NoArrival {
    fn from(failure: HeaderFailure) -> Self {
        Self::Failed(failure)
    }
}

impl Arrival {
    /// Whose connection `client` is: that of `ends` themselves, or where these are of a trusted proxy, of the ends in its
    /// header, which must be complete before `deadline`.
    ///
    /// # Errors
    /// That the header is missing or cannot be believed. The connection is then to be closed without a word.
    pub async fn of(
        client: &TcpStream,
        ends: Ends,
        proxies: &TrustedProxies,
        deadline: Instant,
    ) -> Result<Self, NoArrival> {
        if !proxies.contains(ends.source.ip()) {
            return Ok(Self { ends, unread: Vec::new() });
        }
        let mut received = Vec::new();
        loop {
            if let Some((header, length)) = find(&received)? {
                received.drain(..length);
                return Ok(Self { ends: header.unwrap_or(ends), unread: received });
            }
            let reading = read(client, &mut received);
            match timeout_at(deadline, reading).await {
                Ok(Ok(0)) | Ok(Err(_)) if received.is_empty() => return Err(NoArrival::NothingSent),
                Ok(Ok(0)) | Ok(Err(_)) => return Err(HeaderFailure::Truncated.into()),
                Ok(Ok(_)) => {}
                Err(_elapsed) => return Err(HeaderFailure::TimedOut.into()),
            }
        }
    }
}

/// Reads what is there, up to the longest header, behind what was received. 0 at the end.
async fn read(client: &TcpStream, received: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        let mut lent = Lent::small();
        let bytes = lent.buffer().bytes.get_mut(..LONGEST - received.len().min(LONGEST)).unwrap_or_default();
        let capacity = bytes.len();
        match socket::read(client, &mut [IoSliceMut::new(bytes)], capacity)? {
            Some(read) => {
                received.extend(bytes.get(..read).unwrap_or_default());
                return Ok(read);
            }
            None => drop(lent),
        }
        client.readable().await?;
    }
}

/// The ends that the header at the front of `received` tells, and its length. No ends where it says that the connection
/// is the proxy's own, or does not say whose it is. `None` while it is not complete.
fn find(received: &[u8]) -> Result<Option<(Option<Ends>, usize)>, HeaderFailure> {
    let length = match length(received)? {
        Some(length) if length > LONGEST => return Err(HeaderFailure::TooLong),
        Some(length) => length,
        None => return Ok(None),
    };
    // The parser sees the header alone: it would otherwise take what follows for a part of one that is too short.
    let Some(header) = received.get(..length) else { return Ok(None) };
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (parsed, _) = ProxyHeader::parse(header, config).map_err(|_| HeaderFailure::Malformed)?;
    let ends = match parsed.proxied_address() {
        Some(address) if address.protocol == Protocol::Datagram => return Err(HeaderFailure::Malformed),
        Some(address) => Some(Ends { source: canonical(address.source), destination: canonical(address.destination) }),
        None => None,
    };
    Ok(Some((ends, length)))
}

/// How long the header is, from its first bytes; `None` while they do not tell.
fn length(received: &[u8]) -> Result<Option<usize>, HeaderFailure> {
    if agree(received, V1_BEGIN) {
        let line = received.get(..V1_LONGEST).unwrap_or(received);
        return match line.iter().position(|byte| *byte == b'\n') {
            Some(end) => Ok(Some(end + 1)),
            None if line.len() == V1_LONGEST => Err(HeaderFailure::TooLong),
            None => Ok(None),
        };
    }
    if !agree(received, SIGNATURE) {
        return Err(HeaderFailure::Missing);
    }
    match received.get(..V2_FIXED) {
        Some([.., high, low]) => Ok(Some(V2_FIXED + usize::from(u16::from_be_bytes([*high, *low])))),
        Some(_) | None => Ok(None),
    }
}

/// Whether the two are alike as far as both go.
fn agree(received: &[u8], begin: &[u8]) -> bool {
    received.iter().zip(begin).all(|(left, right)| left == right)
}

/// One form for each address, whatever the proxy's socket was.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;
    use crate::socket::tests::pair;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;

    const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n";
    const HELLO: &[u8] = b"\x16\x03\x01\x00\x05hello";

    fn ends(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// A header of version 2 with this command, family, and the rest.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, rest].concat()
    }

    fn v2_of_v4() -> Vec<u8> {
        v2(0x21, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x01, 0xbb])
    }

    fn v2_of_v6(fields: &[u8]) -> Vec<u8> {
        let mut rest = [0; 36];
        rest[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        rest[15] = 1;
        rest[16..20].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        rest[31] = 2;
        rest[32..].copy_from_slice(&[0xc3, 0x50, 0x01, 0xbb]);
        v2(0x21, 0x21, &[&rest, fields].concat())
    }

    /// Headers, and the ends that they tell.
    fn good() -> Vec<(Vec<u8>, Option<Ends>)> {
        let v4 = ends("192.0.2.7:50000", "198.51.100.1:443");
        let v6 = ends("[2001:db8::1]:50000", "[2001:db8::2]:443");
        let longest_v1 = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_LONGEST - 16));
        assert_eq!(longest_v1.len(), V1_LONGEST);
        vec![
            (V1.to_vec(), Some(v4)),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 50000 443\r\n".to_vec(), Some(v6)),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 50000 443\r\n".to_vec(), Some(v4)),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (longest_v1.into_bytes(), None),
            (v2_of_v4(), Some(v4)),
            (v2_of_v6(b""), Some(v6)),
            // Fields behind the addresses are passed over.
            (v2_of_v6(&[0x04, 0x00, 0x03, 1, 2, 3]), Some(v6)),
            (v2_of_v6(&vec![0; LONGEST - V2_FIXED - 36]), Some(v6)),
            // LOCAL, with and without addresses, unspecified, and a unix socket.
            (v2(0x20, 0x00, b""), None),
            (v2(0x20, 0x11, &[0; 12]), None),
            (v2(0x21, 0x00, b""), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ]
    }

    #[test]
    fn headers_tell_whose_the_connection_is() {
        for (header, expected) in good() {
            let whole = [&header, HELLO].concat();
            assert_eq!(find(&whole), Ok(Some((expected, header.len()))), "{}", header.escape_ascii());
            for length in 0..header.len() {
                assert_eq!(find(&header[..length]), Ok(None), "{length} of {}", header.escape_ascii());
            }
        }
    }

    #[test]
    fn what_cannot_be_believed_has_its_name() {
        let too_long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_LONGEST));
        let mut version_3 = v2_of_v4();
        version_3[12] = 0x31;
        let mut huge = v2_of_v4();
        huge[14..16].copy_from_slice(&[0xff, 0xff]);
        for (bytes, expected) in [
            (HELLO, HeaderFailure::Missing),
            (b"GET / HTTP/1.1\r\n", HeaderFailure::Missing),
            (b"PROXYTCP4 192.0.2.7", HeaderFailure::Missing),
            (b"\r\n\r\n\0\r\nQUIT!", HeaderFailure::Missing),
            (b"PROXY TCP4 300.0.2.7 198.51.100.1 1 2\r\n", HeaderFailure::Malformed),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n", HeaderFailure::Malformed),
            (b"PROXY TCP4 2001:db8::1 198.51.100.1 1 2\r\n", HeaderFailure::Malformed),
            (b"PROXY TCP4 192.0.2.7\r\n", HeaderFailure::Malformed),
            (b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n", HeaderFailure::Malformed),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n", HeaderFailure::Malformed),
            (b"PROXY \n", HeaderFailure::Malformed),
            (too_long.as_bytes(), HeaderFailure::TooLong),
            (&version_3, HeaderFailure::Malformed),
            (&v2(0x22, 0x11, &[0; 12]), HeaderFailure::Malformed),
            // A datagram, a family that is none, and addresses that are cut short, with TLS behind them.
            (&v2(0x21, 0x12, &[0; 12]), HeaderFailure::Malformed),
            (&v2(0x21, 0x41, &[0; 12]), HeaderFailure::Malformed),
            (&v2(0x21, 0x11, &[0; 11]), HeaderFailure::Malformed),
            (&[v2(0x21, 0x11, b""), HELLO.repeat(9)].concat(), HeaderFailure::Malformed),
            (&v2(0x21, 0x31, &[0; 215]), HeaderFailure::Malformed),
            (&huge, HeaderFailure::TooLong),
        ] {
            assert_eq!(find(bytes), Err(expected), "{}", bytes.escape_ascii());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_it_and_more_bytes_change_no_answer(
            header in 0..good().len(),
            changes in proptest::collection::vec((0..60_usize, proptest::num::u8::ANY), 0..4),
            behind in proptest::collection::vec(proptest::num::u8::ANY, 0..40),
        ) {
            let mut bytes = good().swap_remove(header).0;
            for (place, value) in changes {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = value;
                }
            }
            bytes.extend(behind);
            let whole = find(&bytes);
            for length in 0..bytes.len() {
                match find(&bytes[..length]) {
                    Ok(None) => {}
                    answer => proptest::prop_assert_eq!(answer, whole),
                }
            }
        }
    }

    async fn arrival(parts: &[&[u8]], proxies: &[&str]) -> Result<Arrival, NoArrival> {
        let (mut far, near) = pair().await;
        let direct = Ends { source: near.peer_addr().unwrap(), destination: near.local_addr().unwrap() };
        let proxies: Vec<_> = proxies.iter().map(|network| (*network).to_owned()).collect();
        let (proxies, deadline) = (proxies.try_into().unwrap(), Instant::now() + Duration::from_secs(20));
        let sending = async {
            for part in parts {
                far.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            far.shutdown().await.unwrap();
        };
        let (arrival, ()) = tokio::join!(Arrival::of(&near, direct, &proxies, deadline), sending);
        if let Ok(Arrival { ends, .. }) = &arrival
            && *ends == direct
        {
            return arrival.map(|arrival| Arrival { ends: self::ends("0.0.0.0:0", "0.0.0.0:0"), ..arrival });
        }
        arrival
    }

    #[tokio::test]
    async fn a_header_comes_first_from_a_proxy_and_never_from_others() {
        let (client, direct) = (ends("192.0.2.7:50000", "198.51.100.1:443"), ends("0.0.0.0:0", "0.0.0.0:0"));
        let loopback = ["127.0.0.0/8"];
        for header in [V1.to_vec(), v2_of_v4()] {
            let whole = [&header, HELLO].concat();
            let told = Ok(Arrival { ends: client, unread: HELLO.to_vec() });
            assert_eq!(arrival(&[&whole], &loopback).await, told);
            let bytes: Vec<_> = header.chunks(1).collect();
            assert_eq!(arrival(&bytes, &loopback).await, Ok(Arrival { ends: client, unread: Vec::new() }));
            let unread = Ok(Arrival { ends: direct, unread: Vec::new() });
            assert_eq!(arrival(&[&whole], &["10.0.0.0/8"]).await, unread);
        }
        let local = Ok(Arrival { ends: direct, unread: Vec::new() });
        assert_eq!(arrival(&[&v2(0x20, 0, b"")], &loopback).await, local);
        assert_eq!(arrival(&[], &loopback).await, Err(NoArrival::NothingSent));
        assert_eq!(arrival(&[HELLO], &loopback).await, Err(HeaderFailure::Missing.into()));
        assert_eq!(arrival(&[&V1[..20]], &loopback).await, Err(HeaderFailure::Truncated.into()));
    }

    #[tokio::test]
    async fn a_header_that_does_not_end_is_waited_for_until_the_deadline() {
        let (mut far, near) = pair().await;
        far.write_all(&V1[..20]).await.unwrap();
        let direct = Ends { source: near.peer_addr().unwrap(), destination: near.local_addr().unwrap() };
        let proxies = vec!["127.0.0.1".to_owned()].try_into().unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let timed_out = Err(HeaderFailure::TimedOut.into());
        assert_eq!(Arrival::of(&near, direct, &proxies, deadline).await, timed_out);
    }
}
