//! Sealing: `key name 16 ‖ salt 32 ‖ AES-256-GCM(record)`, with a key for each salt, so that no nonce is ever used twice.
//!
//! The key is `HKDF-SHA256(ticket key, salt, purpose)`. The purpose names the virtual host, so that what one host sealed
//! opens at no other, and for a stored session its id, so that no store can pass one session off as another.

use aes_gcm::aead::Aead;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use keystead_tls::SessionId;
use rand::CryptoRng;
use sha2::Sha256;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::ticket_keys::{Generation, Generations, KeyName};

const NAME: usize = size_of::<KeyName>();
const SALT: usize = 32;
const TAG: usize = 16;

/// Bytes that sealing adds.
pub const OVERHEAD: usize = NAME + SALT + TAG;

/// What is sealed, and for which virtual host.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'p> {
    /// The host's name.
    pub host: &'p str,
    /// The session's id where a store holds it; `None` for a ticket.
    pub session_id: Option<SessionId>,
}

impl Purpose<'_> {
    /// No two purposes have the same bytes: the id, if any, has 32, and a host's name has no zero byte.
    fn info(&self) -> Vec<u8> {
        let mut info = b"keystead session v1\0".to_vec();
        info.extend_from_slice(self.host.as_bytes());
        info.push(0);
        if let Some(SessionId(id)) = self.session_id {
            info.extend_from_slice(&id);
        }
        info
    }
}

/// Why something does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// Under a key that this edge does not have: of another fleet or group, too old, or no seal at all.
    UnknownGeneration,
    /// The key does not fit: altered, or sealed for another purpose.
    Unreadable,
}

/// Seals a record. `None` only if the libraries refuse lengths that they allow.
pub fn seal(generation: &Generation, purpose: Purpose<'_>, record: &[u8], rng: &mut dyn CryptoRng) -> Option<Vec<u8>> {
    let mut salt = [0; SALT];
    rng.fill_bytes(&mut salt);
    let ciphertext = cipher(generation, &salt, purpose)?.encrypt(&Nonce::default(), record).ok()?;
    Some([generation.name.as_slice(), &salt, &ciphertext].concat())
}

/// Opens what was sealed for this purpose under one of `generations`, which is named with it.
///
/// # Errors
/// [`Unopened`].
pub fn open<'g>(
    generations: &'g Generations,
    purpose: Purpose<'_>,
    sealed: &[u8],
    now: Instant,
) -> Result<(Zeroizing<Vec<u8>>, &'g Generation), Unopened> {
    let (name, rest) = sealed.split_first_chunk::<NAME>().ok_or(Unopened::UnknownGeneration)?;
    let generation = generations.opening(name, now).ok_or(Unopened::UnknownGeneration)?;
    let (salt, ciphertext) = rest.split_first_chunk::<SALT>().ok_or(Unopened::Unreadable)?;
    let cipher = cipher(generation, salt, purpose).ok_or(Unopened::Unreadable)?;
    let record = cipher.decrypt(&Nonce::default(), ciphertext).map_err(|_| Unopened::Unreadable)?;
    Ok((Zeroizing::new(record), generation))
}

/// Bytes at the end of an id that show that an edge of the group has made it.
const MARK: usize = 8;

/// Marks an id as made by an edge of the group: its last bytes are a MAC of the others. So an id of a client's making,
/// as every client of TLS 1.3 sends (RFC 8446 §4.1.2), is known without asking a store.
pub fn mark(generation: &Generation, SessionId(id): SessionId) -> SessionId {
    let mut marked = id;
    if let Some((name, mark)) = marked.split_last_chunk_mut::<MARK>()
        && let Some(mac) = mac(generation, name)
    {
        mac.finalize().as_bytes().iter().zip(mark).for_each(|(byte, of_mark)| *of_mark = *byte);
    }
    SessionId(marked)
}

/// Whether an edge of the group made the id under one of the generations that still open.
pub fn is_marked(generations: &Generations, SessionId(id): &SessionId, now: Instant) -> bool {
    let Some((name, mark)) = id.split_last_chunk::<MARK>() else { return false };
    let fits = |generation: &Generation| {
        mac(generation, name).is_some_and(|mac| mac.verify_truncated_left(mark.as_slice()).is_ok())
    };
    generations.all_opening(now).any(fits)
}

/// `None` only if the libraries refuse a length that they allow.
fn mac(generation: &Generation, name: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(generation.key.expose()).ok()?;
    mac.update(b"keystead session id v1\0");
    mac.update(name);
    Some(mac)
}

fn cipher(generation: &Generation, salt: &[u8; SALT], purpose: Purpose<'_>) -> Option<Aes256Gcm> {
    let mut key = Zeroizing::new([0; 32]);
    let derivation = Hkdf::<Sha256>::new(Some(salt), generation.key.expose());
    derivation.expand(&purpose.info(), key.as_mut_slice()).ok()?;
    Aes256Gcm::new_from_slice(key.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::super::ticket_keys::tests::{message, ticket_keys};
    use super::*;

    const TICKET: Purpose<'static> = Purpose { host: "a.example", session_id: None };

    fn sealed(generations: &Generations, purpose: Purpose<'_>) -> Vec<u8> {
        seal(generations.sealing(Instant::now()).unwrap(), purpose, b"record", &mut rand::rng()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_for_its_purpose_alone() {
        let keys = ticket_keys();
        keys.tell(message(5), Instant::now());
        let generations = keys.load();
        let purposes = [
            TICKET,
            Purpose { host: "b.example", session_id: None },
            Purpose { session_id: Some(SessionId([1; 32])), ..TICKET },
            Purpose { session_id: Some(SessionId([2; 32])), ..TICKET },
        ];
        for (index, purpose) in purposes.into_iter().enumerate() {
            let sealed = sealed(&generations, purpose);
            assert_eq!(sealed.len(), b"record".len() + OVERHEAD);
            for (other, opener) in purposes.into_iter().enumerate() {
                let opened = open(&generations, opener, &sealed, Instant::now()).map(|(record, _)| record.to_vec());
                let expected = if other == index { Ok(b"record".to_vec()) } else { Err(Unopened::Unreadable) };
                assert_eq!(opened, expected);
            }
        }
    }

    #[test]
    fn nothing_altered_or_cut_opens() {
        let keys = ticket_keys();
        keys.tell(message(5), Instant::now());
        let generations = keys.load();
        let sealed = sealed(&generations, TICKET);
        for index in 0..sealed.len() {
            let mut altered = sealed.clone();
            *altered.get_mut(index).unwrap() ^= 1;
            let expected = if index < NAME { Unopened::UnknownGeneration } else { Unopened::Unreadable };
            assert_eq!(open(&generations, TICKET, &altered, Instant::now()).err(), Some(expected), "{index}");
            let cut = sealed.get(..index).unwrap();
            assert_eq!(open(&generations, TICKET, cut, Instant::now()).err(), Some(expected), "{index}");
        }
    }

    #[test]
    fn an_id_is_known_by_its_mark_while_its_generation_opens() {
        let keys = ticket_keys();
        keys.tell(message(5), Instant::now());
        let id = mark(keys.load().sealing(Instant::now()).unwrap(), SessionId([7; 32]));
        assert_eq!(id.0.first_chunk(), Some(&[7; 24]));
        assert!(is_marked(&keys.load(), &id, Instant::now()));
        for index in 0..32 {
            let mut altered = id;
            altered.0[index] ^= 1;
            assert!(!is_marked(&keys.load(), &altered, Instant::now()), "{index}");
        }
        keys.tell(message(6), Instant::now());
        assert!(is_marked(&keys.load(), &id, Instant::now()));
        keys.tell(message(7), Instant::now());
        assert!(!is_marked(&keys.load(), &id, Instant::now()));
    }

    #[test]
    fn other_generations_open_nothing_and_no_two_seals_are_alike() {
        let (keys, others) = (ticket_keys(), ticket_keys());
        keys.tell(message(5), Instant::now());
        others.tell(message(9), Instant::now());
        let sealed_once = sealed(&keys.load(), TICKET);
        assert_ne!(sealed_once, sealed(&keys.load(), TICKET));
        let opened = open(&others.load(), TICKET, &sealed_once, Instant::now()).err();
        assert_eq!(opened, Some(Unopened::UnknownGeneration));
        // The next hour's current generation is this hour's next: it opens already.
        others.tell(message(6), Instant::now());
        assert!(open(&others.load(), TICKET, &sealed_once, Instant::now()).is_ok());
    }
}
