//! In which order a connection tries its host's backends.

use std::net::IpAddr;
use std::time::Instant;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use strum::IntoStaticStr;

use super::member::Member;
use super::target::Target;

/// How connections are spread over backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Balance {
    /// To each in turn.
    #[default]
    RoundRobin,
    /// To the one that the fewest connections of this edge stand with; in turn among equals.
    LeastConnections,
    /// To the one that belongs to the client's address. When the set of backends changes, only those clients go elsewhere
    /// whose backend is gone, or who belong to one that has come.
    SourceHash,
}

/// Who connects: what an order may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The client's address.
    pub client: IpAddr,
    /// How many came before it.
    pub number: usize,
}

impl Balance {
    /// All of `members`, those that should be tried first at the front. Behind those that are up stand those that are
    /// not: when nobody else takes the connection, they get to show that they can.
    pub fn order<M: AsRef<Member>>(self, members: &[M], arrival: Arrival) -> Vec<&Member> {
        let now = Instant::now();
        let (mut up, mut down): (Vec<&Member>, Vec<_>) =
            members.iter().map(AsRef::as_ref).partition(|member| member.is_up(now));
        for part in [&mut up, &mut down] {
            self.sort(part, arrival);
        }
        up.append(&mut down);
        up
    }

    fn sort(self, members: &mut [&Member], arrival: Arrival) {
        match self {
            Self::RoundRobin => rotate(members, arrival.number),
            Self::LeastConnections => {
                rotate(members, arrival.number);
                members.sort_by_key(|member| member.endpoint().live());
            }
            Self::SourceHash => {
                members
                    .sort_by_cached_key(|member| std::cmp::Reverse(weight(arrival.client, member.endpoint().target())));
            }
        }
    }
}

fn rotate(members: &mut [&Member], number: usize) {
    if !members.is_empty() {
        members.rotate_left(number % members.len());
    }
}

/// The weight of a target for a client in rendezvous hashing. The same on every edge.
fn weight(client: IpAddr, target: &Target) -> [u8; 32] {
    let digest = match client.to_canonical() {
        IpAddr::V4(address) => Sha256::new_with_prefix(address.octets()),
        IpAddr::V6(address) => Sha256::new_with_prefix(address.octets()),
    };
    digest.chain_update(target.to_string()).finalize().into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;
    use crate::backend::endpoint::Endpoint;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::net::TcpListener;

    fn member(target: Target) -> Arc<Member> {
        Arc::new(Member::new(Arc::new(Endpoint::new(target)), None, Arc::default()))
    }

    fn members(count: u16) -> Vec<Arc<Member>> {
        (1..=count).map(|port| member(Target::Tcp((Ipv4Addr::LOCALHOST, port).into()))).collect()
    }

    fn order(balance: Balance, members: &[Arc<Member>], client: u32, number: usize) -> Vec<Target> {
        let arrival = Arrival { client: Ipv4Addr::from(client).into(), number };
        balance.order(members, arrival).iter().map(|member| member.endpoint().target().clone()).collect()
    }

    #[test]
    fn each_is_first_in_turn_and_all_are_in_the_order() {
        let members = members(3);
        let first: Vec<_> =
            (0..6).map(|number| order(Balance::RoundRobin, &members, 0, number)[0].to_string()).collect();
        let expected = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
        assert_eq!(first, [expected, expected].concat());
        for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::SourceHash] {
            let mut all = order(balance, &members, 7, 5);
            all.sort();
            assert_eq!(all, members.iter().map(|member| member.endpoint().target().clone()).collect::<Vec<_>>());
        }
        assert!(order(Balance::RoundRobin, &[], 0, 5).is_empty());
    }

    #[tokio::test]
    async fn the_least_busy_comes_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let busy = member(Target::Tcp(listener.local_addr().unwrap()));
        let idle = member(Target::Tcp("127.0.0.1:1".parse().unwrap()));
        let members = [busy.clone(), idle.clone()];
        let first = |number| order(Balance::LeastConnections, &members, 0, number)[0].clone();
        assert_ne!(first(0), first(1));
        let connected = busy.connect(b"", Duration::from_secs(20)).await.unwrap();
        assert_eq!([first(0), first(1)], [idle.endpoint().target().clone(), idle.endpoint().target().clone()]);
        drop(connected);
        assert_ne!(first(0), first(1));
    }

    #[test]
    fn clients_stay_with_their_backend_when_others_come_and_go() {
        let ten = members(10);
        let chosen = |members: &[Arc<Member>]| -> HashMap<u32, Target> {
            (0..1000)
                .map(|client| (client, order(Balance::SourceHash, members, client, client as usize)[0].clone()))
                .collect()
        };
        let (of_ten, of_nine) = (chosen(&ten), chosen(&ten[..9]));
        let gone = ten[9].endpoint().target();
        for (client, target) in &of_ten {
            assert!(target == gone || of_nine[client] == *target, "{client}");
        }
        let mut shares: HashMap<&Target, usize> = HashMap::new();
        of_ten.values().for_each(|target| *shares.entry(target).or_default() += 1);
        assert!(shares.len() == 10 && shares.values().all(|share| (60..=140).contains(share)), "{shares:?}");
        // The order in the configuration is no part of it.
        let backwards: Vec<_> = ten.iter().rev().cloned().collect();
        assert_eq!(chosen(&backwards), of_ten);
        // Nor is the way in which an address is written.
        let mapped = Arrival { client: Ipv4Addr::from(7).to_ipv6_mapped().into(), number: 0 };
        assert_eq!(Balance::SourceHash.order(&ten, mapped)[0].endpoint().target(), &of_ten[&7]);
    }

    #[tokio::test]
    async fn those_that_are_down_come_last_and_are_all_there_is_when_all_are_down() {
        let members = members(3);
        let down = members[0].clone();
        for _ in 0..3 {
            down.connect(b"", Duration::from_secs(20)).await.unwrap_err();
        }
        for number in 0..3 {
            for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::SourceHash] {
                let order = order(balance, &members, number, number as usize);
                assert_eq!((order.len(), &order[2]), (3, down.endpoint().target()), "{balance:?} {number}");
            }
        }
        assert_eq!(order(Balance::SourceHash, &members[..1], 0, 0).len(), 1);
    }
}
