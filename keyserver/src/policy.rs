//! What one edge may do with one key.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use keystead_program::server_name::NamePattern;
use keystead_tls::SignatureScheme;

use crate::config::grant::{Bounds, GrantConfig, OperationName, ServerName};
use crate::key::Key;
use crate::rate::{Bucket, Cost, Rate};
use crate::refusal::Refusal;
use crate::ticket_keys::ratchet::UnixTime;

/// A key that an edge may use, and for what.
#[derive(Clone, Debug)]
pub struct Grant {
    key: Arc<Key>,
    /// Those it may ask signatures with; none where it may not ask for any. In the key's order.
    schemes: Vec<SignatureScheme>,
    recovers: bool,
    /// `None` where clients may ask for any.
    server_names: Option<Arc<ServerNames>>,
    pub(crate) budget: Budget,
    pub(crate) not_after: NotAfter,
}

impl Grant {
    /// Everything that `key` is for, without bounds.
    pub fn whole(key: Arc<Key>) -> Self {
        Self {
            schemes: key.identity().schemes().to_vec(),
            recovers: key.identity().allows_key_transport(),
            key,
            server_names: None,
            budget: Budget::default(),
            not_after: NotAfter::default(),
        }
    }

    /// What `config` says about `key`.
    ///
    /// # Errors
    /// [`PolicyError`] for what does not fit the key, and for bounds that would let nothing through.
    pub fn new(config: &GrantConfig, key: Arc<Key>) -> Result<Self, PolicyError> {
        let whole = Self::whole(key);
        let operations = config.operations.as_deref();
        let asks_for = |operation| operations.is_none_or(|operations| operations.contains(&operation));
        if operations.is_some_and(<[_]>::is_empty) {
            return Err(PolicyError::NoOperation);
        }
        let recovers = asks_for(OperationName::RecoverMasterSecret);
        if recovers && operations.is_some() && !whole.recovers {
            return Err(PolicyError::NotForKeyTransport);
        }
        let schemes = match (asks_for(OperationName::SignServerKeyExchange), &config.schemes) {
            (false, None) => Vec::new(),
            (false, Some(_)) => return Err(PolicyError::SchemesWithoutSigning),
            (true, None) => whole.schemes.clone(),
            (true, Some(names)) => {
                let names: Vec<_> = names.iter().map(|name| name.0).collect();
                schemes_among(&whole.schemes, &names)?
            }
        };
        Ok(Self {
            schemes,
            recovers: recovers && whole.recovers,
            server_names: config.server_names.as_deref().map(ServerNames::new).transpose()?.map(Arc::new),
            budget: Budget::new(config.bounds, whole.key.unit_cost())?,
            not_after: config.bounds.not_after.into(),
            key: whole.key,
        })
    }

    /// The same for another key: one that this one's key has replaced.
    pub fn for_key(&self, key: Arc<Key>) -> Self {
        let all = key.identity().schemes();
        let schemes = match self.schemes == self.key.identity().schemes() {
            true => all.to_vec(),
            false => all.iter().copied().filter(|scheme| self.schemes.contains(scheme)).collect(),
        };
        Self { schemes, recovers: self.recovers && key.identity().allows_key_transport(), key, ..self.clone() }
    }

    /// The key.
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// The schemes it may be asked for.
    pub fn schemes(&self) -> &[SignatureScheme] {
        &self.schemes
    }

    /// Whether master secrets may be asked for.
    pub fn recovers(&self) -> bool {
        self.recovers
    }

    /// Whether it is over at that time.
    pub fn is_over(&self, now: UnixTime) -> bool {
        self.not_after.is_over(now)
    }

    /// Whether a client that asks for this name may be served; `None` is one that asks for none.
    pub fn serves(&self, server_name: Option<&str>) -> bool {
        self.server_names.as_ref().is_none_or(|names| names.contain(server_name))
    }

    /// That a signature with `scheme` may be asked for, for a client that asks for `server_name`.
    ///
    /// # Errors
    /// [`Refusal`] when not.
    pub fn may_sign(&self, scheme: SignatureScheme, server_name: &str, now: UnixTime) -> Result<(), Refusal> {
        if self.is_over(now) {
            Err(Refusal::RightsExpired)
        } else if self.schemes.is_empty() {
            Err(Refusal::OperationNotAllowed)
        } else if !self.schemes.contains(&scheme) {
            Err(Refusal::SchemeNotAllowed)
        } else if !self.serves(Some(server_name).filter(|name| !name.is_empty())) {
            Err(Refusal::ServerNameNotAllowed)
        } else {
            Ok(())
        }
    }

    /// That master secrets may be asked for. For which clients, their own messages tell, and
    /// [`serves`](Self::serves).
    ///
    /// # Errors
    /// [`Refusal`] when not.
    pub fn may_recover(&self, now: UnixTime) -> Result<(), Refusal> {
        if self.is_over(now) {
            Err(Refusal::RightsExpired)
        } else if !self.key.identity().allows_key_transport() {
            Err(Refusal::KeyTransportNotAllowed)
        } else if !self.recovers {
            Err(Refusal::OperationNotAllowed)
        } else {
            Ok(())
        }
    }
}

/// Those of `all` that are in `names`.
fn schemes_among(all: &[SignatureScheme], names: &[SignatureScheme]) -> Result<Vec<SignatureScheme>, PolicyError> {
    match names.iter().find(|scheme| !all.contains(scheme)) {
        Some(unfit) => Err(PolicyError::UnfitScheme(*unfit)),
        None if names.is_empty() => Err(PolicyError::NoScheme),
        None => Ok(all.iter().copied().filter(|scheme| names.contains(scheme)).collect()),
    }
}

/// The names that clients may ask for.
#[derive(Debug, Default)]
struct ServerNames {
    exact: HashSet<String>,
    /// What stands behind the first label.
    wildcard: HashSet<String>,
    none: bool,
}

impl ServerNames {
    fn new(config: &[ServerName]) -> Result<Self, PolicyError> {
        let mut names = Self::default();
        for entry in config {
            match entry {
                ServerName::None => names.none = true,
                ServerName::Pattern(NamePattern::Exact(name)) => drop(names.exact.insert(name.clone())),
                ServerName::Pattern(NamePattern::Wildcard(parent)) => drop(names.wildcard.insert(parent.clone())),
            }
        }
        if config.is_empty() { Err(PolicyError::NoServerName) } else { Ok(names) }
    }

    fn contain(&self, name: Option<&str>) -> bool {
        let Some(name) = name else { return self.none };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let parent = name.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, parent)| parent);
        self.exact.contains(&name) || parent.is_some_and(|parent| self.wildcard.contains(parent))
    }
}

/// How much may be asked for; without end by default.
#[derive(Clone, Debug, Default)]
pub struct Budget(Option<Arc<Bucket>>);

impl Budget {
    /// What `bounds` say, where the dearest operation costs `dearest`.
    ///
    /// # Errors
    /// [`PolicyError`] for a rate or burst that would let no operation through.
    pub fn new(bounds: Bounds, dearest: Cost) -> Result<Self, PolicyError> {
        let Some(per_second) = bounds.rate else {
            return if bounds.burst.is_some() { Err(PolicyError::BurstWithoutRate) } else { Ok(Self::default()) };
        };
        let per_second = per_second.try_into().map_err(|_| PolicyError::ZeroRate)?;
        let burst = bounds.burst.unwrap_or(dearest.0.max(u32::from(per_second)));
        match burst.try_into() {
            Ok(burst) if Cost(u32::from(burst)) >= dearest => {
                Ok(Self(Some(Arc::new(Bucket::new(Rate { per_second, burst })))))
            }
            Ok(_) | Err(_) => Err(PolicyError::SmallBurst { burst, dearest }),
        }
    }

    /// The same, with what was left of `before` where that had the same rate.
    pub fn continuing(self, before: &Self) -> Self {
        match (&self.0, &before.0) {
            (Some(bucket), Some(before)) if bucket.rate() == before.rate() => Self(Some(before.clone())),
            _ => self,
        }
    }

    /// Takes `cost`, if it has as much.
    pub fn take(&self, cost: Cost, at: Instant) -> bool {
        self.0.as_ref().is_none_or(|bucket| bucket.take(cost, at))
    }

    /// Puts back what was taken for something that is not done.
    pub fn give_back(&self, cost: Cost) {
        if let Some(bucket) = &self.0 {
            bucket.give_back(cost);
        }
    }
}

/// When rights end; never by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotAfter(Option<UnixTime>);

impl NotAfter {
    /// Whether that is behind `now`.
    pub fn is_over(self, now: UnixTime) -> bool {
        self.0.is_some_and(|end| end <= now)
    }

    /// When, if ever.
    pub fn time(self) -> Option<UnixTime> {
        self.0
    }
}

impl From<Option<SystemTime>> for NotAfter {
    fn from(time: Option<SystemTime>) -> Self {
        let since_1970 = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(time.map(since_1970).map(UnixTime))
    }
}

/// What an entry of an edge's keys, or the edge's own bounds, have wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// An empty list of operations.
    #[error("operations = [] allows nothing; take the key off the edge's list instead")]
    NoOperation,
    /// The key does not do this.
    #[error("recover_master_secret takes a [[key]] with danger_rsa_key_transport = true; take it off `operations`")]
    NotForKeyTransport,
    /// Schemes of signatures that are not made.
    #[error("`schemes` are for sign_server_key_exchange, which `operations` leaves out; take one of the two out")]
    SchemesWithoutSigning,
    /// A scheme that the key does not sign with.
    #[error("the key does not sign with {0}; take it off the edge's `schemes`, or put it on those of the [[key]]")]
    UnfitScheme(SignatureScheme),
    /// An empty list of schemes.
    #[error("schemes = [] allows no signature; leave it out for all of the key's")]
    NoScheme,
    /// An empty list of names.
    #[error("server_names = [] serves nobody; leave it out for any name, or name some")]
    NoServerName,
    /// Nothing each second.
    #[error("rate = 0 lets nothing through; leave it out for no bound, or take the key off the edge's list")]
    ZeroRate,
    /// A burst of no rate.
    #[error("burst takes a `rate`, in units of cost each second")]
    BurstWithoutRate,
    /// A burst in which no operation has room.
    #[error("burst = {burst} is less than one operation costs; make it {} or more", dearest.0)]
    SmallBurst {
        /// The burst.
        burst: u32,
        /// What one operation costs.
        dearest: Cost,
    },
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::fixture::{Files, Kind, key_transport};

    fn names(names: &[&str]) -> Option<Vec<ServerName>> {
        Some(names.iter().map(|name| (*name).to_owned().try_into().unwrap()).collect())
    }

    fn p256() -> Arc<Key> {
        let files = Files::new();
        files.add_key("key", Kind::P256);
        Arc::new(files.load_key("key", keystead_program::crypto::Crypto::Fast, None).unwrap())
    }

    #[test]
    fn a_bare_name_grants_everything_the_key_is_for() {
        let (key, now) = (Arc::new(key_transport::key()), UnixTime::now());
        let grant = Grant::new(&"key".into(), key.clone()).unwrap();
        for scheme in key.identity().schemes() {
            for name in ["", "localhost", "anything at all"] {
                assert_eq!(grant.may_sign(*scheme, name, now), Ok(()));
            }
        }
        assert_eq!(grant.may_recover(now), Ok(()));
        assert_eq!(Grant::whole(p256()).may_recover(now), Err(Refusal::KeyTransportNotAllowed));
    }

    #[test]
    fn operations_are_granted_one_by_one() {
        let (key, now) = (Arc::new(key_transport::key()), UnixTime::now());
        let with = |operation| {
            let config = GrantConfig { operations: Some(vec![operation]), ..GrantConfig::from("key") };
            let grant = Grant::new(&config, key.clone()).unwrap();
            (grant.may_sign(SignatureScheme::RSA_PSS_RSAE_SHA256, "", now), grant.may_recover(now))
        };
        assert_eq!(with(OperationName::SignServerKeyExchange), (Ok(()), Err(Refusal::OperationNotAllowed)));
        assert_eq!(with(OperationName::RecoverMasterSecret), (Err(Refusal::OperationNotAllowed), Ok(())));
    }

    #[test]
    fn schemes_are_those_listed_in_the_keys_order() {
        let (key, now) = (Arc::new(key_transport::key()), UnixTime::now());
        let listed = [SignatureScheme::RSA_PKCS1_SHA256, SignatureScheme::RSA_PSS_RSAE_SHA256];
        let schemes = Some(listed.map(crate::config::SchemeName).to_vec());
        let grant = Grant::new(&GrantConfig { schemes, ..GrantConfig::from("key") }, key.clone()).unwrap();
        let in_the_keys_order = key.identity().schemes().iter().filter(|scheme| listed.contains(scheme)).copied();
        assert_eq!(grant.schemes(), in_the_keys_order.collect::<Vec<_>>());
        let other = SignatureScheme::RSA_PSS_RSAE_SHA512;
        assert_eq!(grant.may_sign(other, "", now), Err(Refusal::SchemeNotAllowed));
    }

    #[test]
    fn names_match_as_certificates_do() {
        let serves = |listed: &[&str], name: Option<&str>| {
            let config = GrantConfig { server_names: names(listed), ..GrantConfig::from("key") };
            Grant::new(&config, p256()).unwrap().serves(name)
        };
        let some = ["example.org", "*.example.net"];
        for name in ["example.org", "EXAMPLE.org", "example.org.", "www.example.net", "WWW.Example.NET."] {
            assert!(serves(&some, Some(name)), "{name}");
        }
        for name in ["www.example.org", "example.net", ".example.net", "a.b.example.net", "example.or", "", "."] {
            assert!(!serves(&some, Some(name)), "{name:?}");
        }
        assert!(!serves(&some, None));
        assert!(serves(&["", "example.org"], None) && !serves(&[""], Some("example.org")));
    }

    #[test]
    fn what_is_over_is_over_whatever_is_asked_for() {
        let end = UnixTime(std::time::Duration::from_secs(2_000_000_000));
        let not_after = Some(SystemTime::UNIX_EPOCH + end.0);
        let config = GrantConfig { bounds: Bounds { not_after, ..Bounds::default() }, ..GrantConfig::from("key") };
        let grant = Grant::new(&config, Arc::new(key_transport::key())).unwrap();
        let scheme = SignatureScheme::RSA_PSS_RSAE_SHA256;
        let before = UnixTime(end.0 - std::time::Duration::from_nanos(1));
        assert_eq!((grant.may_sign(scheme, "", before), grant.may_recover(before)), (Ok(()), Ok(())));
        let over = Err(Refusal::RightsExpired);
        assert_eq!((grant.may_sign(scheme, "", end), grant.may_recover(end)), (over, over));
    }
}
