//! Leaving an address to other processes that listen on it too (`SO_REUSEPORT`), without losing a connection.
//!
//! The kernel keeps the sockets of an address in an array and picks one for each SYN, by a hash or, where there is one, by
//! a program (net/core/sock_reuseport.c). A socket that listens is added at the end; when one is closed, the last takes its
//! place. Connections that wait in the queue of a socket that is closed are reset, so before it is closed, a program has to
//! send the ones to come elsewhere, and those that were on their way have to arrive.
//!
//! The program sends all of them to the last socket, which is the successor's. It stays when its owner has gone, and does
//! nothing then: with one socket less there is none at that place, and the kernel goes back to its hash. A process cannot
//! ask for the place of its own socket. So it connects to itself: where that arrives here, this socket is the last, and the
//! program picks one of those before it at random.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc::{sock_filter, sock_fprog};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::AttachReusePortCbpf;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How connections are spread over the sockets of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    /// As the kernel does by itself.
    ByHash,
    /// All to the one at this place.
    To(u32),
    /// To each of the first so many, at random.
    AmongFirst(u32),
}

/// Load the word at this offset: a random number. (`SKF_AD_OFF + SKF_AD_RANDOM` of linux/filter.h.)
const RANDOM: sock_filter = sock_filter { code: 0x20, jt: 0, jf: 0, k: 0xffff_f000 + 56 };
/// Go on with the remainder of a division.
const REMAINDER: u16 = 0x94;
/// End with the place of a socket.
const RETURN: u16 = 0x06;
const RETURN_RESULT: sock_filter = sock_filter { code: 0x16, jt: 0, jf: 0, k: 0 };

impl Spread {
    fn program(self) -> Vec<sock_filter> {
        let instruction = |code, k| sock_filter { code, jt: 0, jf: 0, k };
        match self {
            // There is no such place, for which the kernel takes its hash.
            Self::ByHash => vec![instruction(RETURN, u32::MAX)],
            Self::To(place) => vec![instruction(RETURN, place)],
            Self::AmongFirst(count) => vec![RANDOM, instruction(REMAINDER, count.max(1)), RETURN_RESULT],
        }
    }

    /// Puts it into force for all sockets of the address that `socket` listens on.
    fn apply(self, socket: &impl AsFd) -> io::Result<()> {
        let mut program = self.program();
        let length = u16::try_from(program.len()).unwrap_or(u16::MAX);
        let program = sock_fprog { len: length, filter: program.as_mut_ptr() };
        Ok(setsockopt(socket, AttachReusePortCbpf, &program)?)
    }
}

/// Takes part in what comes to the address, as `socket`, which listens, was added to it: a program that a process left
/// behind would have meaning again with one more socket.
///
/// # Errors
/// The system's.
pub fn join(socket: &impl AsFd) -> io::Result<()> {
    Spread::ByHash.apply(socket)
}

/// One process leaving an address.
#[derive(Debug)]
pub struct Handover {
    address: SocketAddr,
    /// Sockets that listen on the address, this one among them.
    sockets: u32,
    spread: Spread,
    /// Tells whether the last of the sockets is this one.
    probe: Option<TcpStream>,
}

impl Handover {
    /// Sends further connections to other processes; `None` where no other listens on `address`.
    ///
    /// # Errors
    /// The system's.
    pub async fn begin(socket: &impl AsFd, address: SocketAddr) -> io::Result<Option<Self>> {
        let sockets = listening(address);
        if sockets < 2 {
            return Ok(None);
        }
        let spread = Spread::To(sockets - 1);
        spread.apply(socket)?;
        let probe = timeout(PROBE_TIMEOUT, TcpStream::connect(reachable(address))).await;
        Ok(Some(Self { address, sockets, spread, probe: probe.ok().and_then(Result::ok) }))
    }

    /// Whether the connection of `peer`, which was accepted here, is this process's own question. It is answered then.
    ///
    /// # Errors
    /// The system's.
    pub fn recognises(&mut self, socket: &impl AsFd, peer: SocketAddr) -> io::Result<bool> {
        let is_own = self.probe.as_ref().is_some_and(|probe| probe.local_addr().is_ok_and(|own| is_same(own, peer)));
        if is_own {
            self.probe = None;
            self.spread = Spread::AmongFirst(self.sockets - 1);
            self.spread.apply(socket)?;
        }
        Ok(is_own)
    }

    /// Whether connections must be sent elsewhere anew, since sockets came or went. Where none did, what is in force is
    /// put into force again: whoever joins an address sets it back.
    ///
    /// # Errors
    /// The system's.
    pub fn is_outdated(&self, socket: &impl AsFd) -> io::Result<bool> {
        let is_outdated = listening(self.address) != self.sockets;
        if !is_outdated {
            self.spread.apply(socket)?;
        }
        Ok(is_outdated)
    }
}

const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the host reaches itself under `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
}

/// Sockets that listen on `address`. Where the kernel does not tell, two: the probe finds out whether that was wrong.
fn listening(address: SocketAddr) -> u32 {
    let table = if address.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    match File::open(table).and_then(|table| count(BufReader::new(table), address)) {
        Ok(sockets) => sockets,
        Err(cause) => {
            tracing::debug!(table, %cause, "sockets of the address not counted");
            2
        }
    }
}

/// The state of a socket that listens (`TCP_LISTEN`), as the kernel's table has it.
const LISTEN: &str = "0A";

/// Reads no further than sockets that listen, which come first: to find all others takes the kernel seconds on a busy host.
fn count(table: impl BufRead, address: SocketAddr) -> io::Result<u32> {
    let address = words(address);
    let mut sockets = 0;
    for line in table.lines().skip(1) {
        let line = line?;
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        if state != Some(LISTEN) {
            break;
        }
        sockets += u32::from(local == Some(&address));
    }
    Ok(sockets)
}

/// The address as the kernel's table has it: words of the machine's order in hexadecimal.
fn words(address: SocketAddr) -> String {
    let octets: Vec<u8> = match address.ip() {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    };
    let (words, _) = octets.as_chunks::<4>();
    let words: String = words.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect();
    format!("{words}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::net::TcpListener;

    fn listen(address: SocketAddr) -> TcpListener {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(64).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.into()
    }

    /// Connections that came to each of `sockets`, of forty.
    fn arrivals(sockets: &[&TcpListener]) -> Vec<usize> {
        let address = sockets.first().unwrap().local_addr().unwrap();
        let _clients: Vec<_> = (0..40).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        sockets.iter().map(|socket| std::iter::from_fn(|| socket.accept().ok()).count()).collect()
    }

    #[test]
    fn a_program_chooses_the_socket_and_one_without_meaning_is_none() {
        let first = listen("127.0.0.1:0".parse().unwrap());
        let address = first.local_addr().unwrap();
        let (second, third) = (listen(address), listen(address));
        assert_eq!(listening(address), 3);
        Spread::To(2).apply(&first).unwrap();
        assert_eq!(arrivals(&[&first, &second, &third]), [0, 0, 40]);
        Spread::AmongFirst(2).apply(&third).unwrap();
        let spread = arrivals(&[&first, &second, &third]);
        assert!(spread[0] > 0 && spread[1] > 0 && spread[2] == 0, "{spread:?}");

        // It stays when its owner has gone, and means nothing until there are three again.
        Spread::To(2).apply(&first).unwrap();
        drop(first);
        assert!(!arrivals(&[&second, &third]).contains(&0));
        let fourth = listen(address);
        assert_eq!(arrivals(&[&second, &third, &fourth]), [0, 0, 40]);
        join(&fourth).unwrap();
        assert!(arrivals(&[&second, &third, &fourth])[..2].iter().all(|arrived| *arrived > 0));
    }

    #[tokio::test]
    async fn a_process_finds_out_whether_it_is_the_last() {
        let first = listen("127.0.0.1:0".parse().unwrap());
        let address = first.local_addr().unwrap();
        assert!(Handover::begin(&first, address).await.unwrap().is_none());
        let second = listen(address);

        let leaving = Handover::begin(&first, address).await.unwrap().unwrap();
        assert_eq!(leaving.spread, Spread::To(1));
        let (_, peer) = second.accept().unwrap();
        assert!(is_same(peer, leaving.probe.as_ref().unwrap().local_addr().unwrap()));
        assert!(!leaving.is_outdated(&first).unwrap());
        assert_eq!(arrivals(&[&first, &second]), [0, 40]);

        let mut leaving = Handover::begin(&second, address).await.unwrap().unwrap();
        let (_, peer) = second.accept().unwrap();
        assert!(leaving.recognises(&second, peer).unwrap());
        assert_eq!(arrivals(&[&first, &second]), [40, 0]);
        let third = listen(address);
        assert!(leaving.is_outdated(&second).unwrap());
        drop(third);
    }

    #[test]
    fn addresses_are_found_as_the_kernel_writes_them() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let socket = listen(address.parse().unwrap());
            assert_eq!(listening(socket.local_addr().unwrap()), 1, "{address}");
        }
    }
}
