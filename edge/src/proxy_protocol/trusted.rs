//! Whose PROXY headers are believed.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// Networks of load balancers. Their connections begin with a PROXY header; those of others never do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct TrustedProxies(Vec<IpNet>);

/// What is wrong with [`TrustedProxies::has_everybody`].
pub const TRUSTS_EVERYBODY: &str = "proxy_protocol_from has every address: whoever can connect may claim any client's";

impl TrustedProxies {
    /// Whether this is the address of one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The networks, as configured.
    pub fn networks(&self) -> &[IpNet] {
        &self.0
    }

    /// Whether all addresses of a family are among them.
    pub fn has_everybody(&self) -> bool {
        self.0.iter().any(|network| network.prefix_len() == 0)
    }
}

impl TryFrom<Vec<String>> for TrustedProxies {
    type Error = String;

    fn try_from(networks: Vec<String>) -> Result<Self, String> {
        networks.iter().map(|network| parse(network)).collect::<Result<_, _>>().map(Self)
    }
}

fn parse(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    match network.map_err(|_| format!("`{text}` is no network: write one as 10.0.0.0/8, or an address"))? {
        IpNet::V6(network) if network.addr().to_ipv4_mapped().is_some() => {
            Err(format!("`{text}`: write the IPv4 network itself, which stands for both forms"))
        }
        network @ (IpNet::V4(_) | IpNet::V6(_)) => Ok(network),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn trusted(networks: &[&str]) -> Result<TrustedProxies, String> {
        networks.iter().map(|network| (*network).to_owned()).collect::<Vec<_>>().try_into()
    }

    #[test]
    fn networks_and_addresses_are_believed_in_either_form() {
        let proxies = trusted(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"]).unwrap();
        for (address, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.0", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(proxies.contains(address.parse().unwrap()), expected, "{address}");
        }
        assert!(!TrustedProxies::default().contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused_with_advice() {
        for (network, expected) in [
            ("10.0.0.0/33", "`10.0.0.0/33` is no network"),
            ("lb.internal", "write one as 10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "write the IPv4 network itself"),
        ] {
            let error = trusted(&[network]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn all_of_a_family_is_everybody() {
        assert!(trusted(&["0.0.0.0/0"]).unwrap().has_everybody());
        assert!(trusted(&["::/0"]).unwrap().has_everybody());
        assert!(!trusted(&["0.0.0.0/1", "::1"]).unwrap().has_everybody());
    }
}
