//! How near an address is, and where a registry may send us. Pure.
//!
//! An answer can name another place: the object store that has a blob, the server that issues tokens. Whoever controls a
//! registry must not be able to make this node ask its own neighbours, such as the metadata service of its cloud. So a
//! registry sends us only to places that are as far away as itself or farther.
//!
//! An address in a URL is judged as it stands. A name is judged by the addresses that it resolves to, with one exception:
//! names may stand for private addresses, since that is how clouds give private endpoints to their object stores. Over
//! HTTPS, from which no redirect leads back to HTTP, a certificate vouches for such a name.

use std::net::IpAddr;

/// How near an address is. The nearer, the fewer registries may send us there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Anywhere on the internet.
    Public,
    /// A private network: RFC 1918, RFC 6598, unique local addresses.
    Private,
    /// The link only, where metadata services live.
    LinkLocal,
    /// This machine.
    Loopback,
}

impl Reach {
    pub(super) fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let private = match address {
            IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        match () {
            // The unspecified address reaches this machine.
            () if address.is_loopback() || address.is_unspecified() => Self::Loopback,
            () if link_local || address.is_multicast() => Self::LinkLocal,
            () if private => Self::Private,
            () => Self::Public,
        }
    }

    /// How near the host of a URL is, as far as it tells by itself: `None` for a name that has to be resolved.
    pub(super) fn of_host(host: &str) -> Option<Self> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse() {
            return Some(Self::of(address));
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        (name == "localhost" || name.ends_with(".localhost")).then_some(Self::Loopback)
    }

    /// Whether a registry that is this near may send us to `host`, as far as the host tells by itself.
    pub(super) fn may_name(self, host: &str) -> bool {
        Self::of_host(host).is_none_or(|there| there <= self)
    }

    /// Whether a registry that is this near may send us to a name that resolves to `address`.
    pub(super) fn may_resolve_to(self, address: IpAddr) -> bool {
        Self::of(address) <= self.max(Self::Private)
    }
}

#[cfg(test)]
mod tests {
    use super::Reach::*;
    use super::*;

    #[test]
    fn hosts_are_as_near_as_their_addresses() {
        let rows = [
            ("127.0.0.1", Some(Loopback)),
            ("127.9.9.9", Some(Loopback)),
            ("[::1]", Some(Loopback)),
            ("0.0.0.0", Some(Loopback)),
            ("[::]", Some(Loopback)),
            ("[::ffff:127.0.0.1]", Some(Loopback)),
            ("localhost", Some(Loopback)),
            ("LOCALHOST.", Some(Loopback)),
            ("registry.localhost", Some(Loopback)),
            ("169.254.169.254", Some(LinkLocal)),
            ("[::ffff:169.254.169.254]", Some(LinkLocal)),
            ("[fe80::1]", Some(LinkLocal)),
            ("224.0.0.1", Some(LinkLocal)),
            ("255.255.255.255", Some(LinkLocal)),
            ("10.1.2.3", Some(Private)),
            ("172.16.0.1", Some(Private)),
            ("192.168.1.1", Some(Private)),
            ("100.100.100.200", Some(Private)),
            ("[fd00:ec2::254]", Some(Private)),
            ("100.128.0.1", Some(Public)),
            ("172.32.0.1", Some(Public)),
            ("8.8.8.8", Some(Public)),
            ("[2001:4860:4860::8888]", Some(Public)),
            ("registry.example", None),
            ("localhost.example", None),
        ];
        for (host, expected) in rows {
            assert_eq!(Reach::of_host(host), expected, "{host}");
        }
    }

    #[test]
    fn a_registry_sends_us_only_as_near_as_it_is_itself() {
        let hosts = ["8.8.8.8", "10.0.0.1", "169.254.169.254", "127.0.0.1"];
        let named = |home: Reach| hosts.map(|host| home.may_name(host));
        let resolved = |home: Reach| hosts.map(|host| home.may_resolve_to(host.parse().unwrap()));
        let rows = [
            (Public, [true, false, false, false], [true, true, false, false]),
            (Private, [true, true, false, false], [true, true, false, false]),
            (LinkLocal, [true, true, true, false], [true, true, true, false]),
            (Loopback, [true, true, true, true], [true, true, true, true]),
        ];
        for (home, by_address, by_name) in rows {
            assert_eq!((named(home), resolved(home)), (by_address, by_name), "{home:?}");
            assert!(home.may_name("store.example"));
        }
    }
}
