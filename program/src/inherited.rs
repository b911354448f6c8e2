//! Listening sockets that whoever started the program hands to it, as systemd does for a `.socket` unit (sd_listen_fds(3)).
//! Such a socket outlives the program: clients wait in it from one process to the next.

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

/// The sockets that were handed over and not yet taken.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<InheritedSocket>,
}

#[derive(Debug)]
struct InheritedSocket {
    /// `FileDescriptorName=` of the unit, which is its name by default.
    name: String,
    address: SocketAddr,
    socket: TcpListener,
}

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Takes an address, for which no socket was handed over.
///
/// # Errors
/// The system's.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Why the sockets that were handed over are not the ones that the configuration wants.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// It is no socket that accepts TCP connections.
    #[error("inherited socket {position} ({name}): {cause}; only TCP sockets can be handed over (ListenStream=)")]
    Unusable {
        /// Counted from 1.
        position: usize,
        /// Its name.
        name: String,
        /// The system's reason.
        cause: io::Error,
    },
    /// The configuration names one that was not handed over.
    #[error(
        "socket = \"{0}\": none of this name was handed over; start the program by its .socket unit, or leave the option out"
    )]
    Missing(String),
    /// Nothing in the configuration wants one.
    #[error(
        "inherited socket {name} listens on {address}, which the configuration does not name; write this very address \
         there, or `socket = \"{name}\"` beside one, or change ListenStream="
    )]
    Unwanted {
        /// Its name.
        name: String,
        /// Where it listens.
        address: SocketAddr,
    },
}

impl Inherited {
    /// Takes those that the environment tells of. It tells once: a second call finds none.
    ///
    /// # Errors
    /// [`InheritedError::Unusable`].
    pub fn from_environment() -> Result<Self, InheritedError> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(str::to_owned);
        let mut descriptors = ListenFd::from_env();
        let sockets = (0..descriptors.len()).map(|index| {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned());
            let unusable = |cause| InheritedError::Unusable { position: index + 1, name: name.clone(), cause };
            let socket = descriptors.take_tcp_listener(index).map_err(unusable)?;
            let socket = socket.ok_or_else(|| unusable(io::ErrorKind::NotFound.into()))?;
            let address = socket.local_addr().map_err(unusable)?;
            Ok(InheritedSocket { name, address, socket })
        });
        Ok(Self { sockets: sockets.collect::<Result<_, _>>()? })
    }

    /// The one called `name`, or where there is no name, the one that listens on `address`; `None` where the program is to
    /// take the address itself.
    ///
    /// # Errors
    /// [`InheritedError::Missing`].
    pub fn take(&mut self, address: SocketAddr, name: Option<&str>) -> Result<Option<TcpListener>, InheritedError> {
        let is_wanted = |socket: &InheritedSocket| match name {
            Some(name) => socket.name == name,
            None => socket.address == address,
        };
        match (self.sockets.iter().position(is_wanted), name) {
            (Some(position), _) => {
                let InheritedSocket { name, address, socket } = self.sockets.swap_remove(position);
                tracing::info!(name, %address, "listening socket inherited");
                Ok(Some(socket))
            }
            (None, Some(name)) => Err(InheritedError::Missing(name.to_owned())),
            (None, None) => Ok(None),
        }
    }

    /// Ends the taking.
    ///
    /// # Errors
    /// [`InheritedError::Unwanted`]: clients that connect to what is left over would wait for ever.
    pub fn finish(self) -> Result<(), InheritedError> {
        match self.sockets.into_iter().next() {
            Some(InheritedSocket { name, address, .. }) => Err(InheritedError::Unwanted { name, address }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;

    /// Sockets as if they had been handed over; programs that really were are among the tests of the whole.
    fn inherited(names: &[&str]) -> Inherited {
        let sockets = names.iter().map(|name| {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            InheritedSocket { name: (*name).to_owned(), address: socket.local_addr().unwrap(), socket }
        });
        Inherited { sockets: sockets.collect() }
    }

    #[test]
    fn a_socket_is_found_by_its_address_or_name() {
        let mut two = inherited(&["https", "other"]);
        let address = two.sockets[1].address;
        assert!(two.take("127.0.0.1:1".parse().unwrap(), None).unwrap().is_none());
        assert_eq!(two.take(address, None).unwrap().unwrap().local_addr().unwrap(), address);
        assert!(two.take("127.0.0.1:1".parse().unwrap(), Some("https")).unwrap().is_some());
        let missing = two.take(address, Some("https")).unwrap_err();
        assert!(missing.to_string().contains("none of this name was handed over"), "{missing}");
        two.finish().unwrap();
    }

    #[test]
    fn a_socket_that_nobody_wants_is_an_error() {
        let error = inherited(&["https"]).finish().unwrap_err();
        assert!(error.to_string().contains("write this very address"), "{error}");
    }
}
