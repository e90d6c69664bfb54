//! Whose headers count.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// The peers that are believed: networks of IPv4 and IPv6 addresses. By default there are none, and that includes this
/// machine: name `127.0.0.0/8` and `::1` where they are meant.
///
/// An IPv4 address that comes as IPv6 (`::ffff:192.0.2.1`, on a socket of both families) is the IPv4 address it stands
/// for. So `::/0` is all of IPv6 and nothing of IPv4.
///
/// ```
/// use overdue::server::TrustedPeers;
///
/// let trusted: TrustedPeers = "10.0.0.0/8, fd00::/8, 127.0.0.1".parse().unwrap();
/// assert!(trusted.contains("::ffff:10.1.2.3".parse().unwrap()));
/// assert!(!trusted.contains("::1".parse().unwrap()));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TrustedPeers {
    v4: Vec<Network>,
    v6: Vec<Network>,
}

/// The bits of an address, to the left, and how many of them count. An IPv4 address has them in the upper 32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Network {
    bits: u128,
    prefix: u8,
}

impl Network {
    fn contains(self, bits: u128) -> bool {
        (self.bits ^ bits) & mask(self.prefix) == 0
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

fn v4_bits(address: Ipv4Addr) -> u128 {
    u128::from(address.to_bits()) << 96
}

impl TrustedPeers {
    /// Nobody.
    #[must_use]
    pub const fn none() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }

    /// One more network (`10.0.0.0/8`, `fd00::/8`) or address.
    ///
    /// # Errors
    /// [`InvalidNetwork`] says what is wrong with it.
    pub fn add(&mut self, network: &str) -> Result<(), InvalidNetwork> {
        let invalid = |why| InvalidNetwork { text: network.chars().take(64).collect(), why };
        let (address, prefix) = match network.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (network, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid(Why::Address))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) if (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= most).ok_or_else(|| invalid(Why::Prefix { most }))?
            }
            Some(_) => return Err(invalid(Why::Prefix { most })),
        };
        let bits = match address {
            IpAddr::V4(address) => v4_bits(address),
            IpAddr::V6(address) => address.to_bits(),
        };
        if bits & !mask(prefix) != 0 {
            let network = bits & mask(prefix);
            let first = if most == 32 {
                IpAddr::V4(Ipv4Addr::from_bits((network >> 96) as u32))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(network))
            };
            return Err(invalid(Why::HostBits { first, prefix }));
        }
        match address {
            IpAddr::V4(_) => self.v4.push(Network { bits, prefix }),
            IpAddr::V6(v6) => match (v6.to_ipv4_mapped(), prefix.checked_sub(96)) {
                (Some(v4), Some(prefix)) => self.v4.push(Network { bits: v4_bits(v4), prefix }),
                _ => self.v6.push(Network { bits, prefix }),
            },
        }
        Ok(())
    }

    /// Whether this peer is one of them.
    #[must_use]
    pub fn contains(&self, peer: IpAddr) -> bool {
        match peer.to_canonical() {
            IpAddr::V4(peer) => self.v4.iter().any(|network| network.contains(v4_bits(peer))),
            IpAddr::V6(peer) => self.v6.iter().any(|network| network.contains(peer.to_bits())),
        }
    }

    /// Nobody is believed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

impl FromStr for TrustedPeers {
    type Err = InvalidNetwork;

    /// Networks and addresses, with commas or spaces between them.
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let mut peers = Self::none();
        for network in text.split([',', ' ']).filter(|network| !network.is_empty()) {
            peers.add(network)?;
        }
        Ok(peers)
    }
}

/// A text that names no network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvalidNetwork {
    text: String,
    why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    Address,
    Prefix { most: u8 },
    HostBits { first: IpAddr, prefix: u8 },
}

impl fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.text;
        match self.why {
            Why::Address => {
                write!(f, "{text:?} is no network: write an address in numbers, such as 10.0.0.0/8, fd00::/8 or ::1")
            }
            Why::Prefix { most } => write!(f, "{text:?} is no network: after the / comes a number up to {most}"),
            Why::HostBits { first, prefix } => {
                write!(f, "{text:?} names an address inside a network: write {first}/{prefix} for the network")
            }
        }
    }
}

impl std::error::Error for InvalidNetwork {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trusts(networks: &str, peer: &str) -> bool {
        networks.parse::<TrustedPeers>().unwrap().contains(peer.parse().unwrap())
    }

    #[test]
    fn nobody_is_trusted_by_default_not_even_this_machine() {
        for peer in ["127.0.0.1", "::1", "10.0.0.1"] {
            assert!(!TrustedPeers::default().contains(peer.parse().unwrap()));
        }
    }

    #[test]
    fn networks_end_where_they_end() {
        assert!(trusts("10.0.0.0/8", "10.255.255.255"));
        assert!(!trusts("10.0.0.0/8", "11.0.0.0"));
        assert!(trusts("192.0.2.4/30", "192.0.2.7"));
        assert!(!trusts("192.0.2.4/30", "192.0.2.8"));
        assert!(trusts("fd00::/8", "fdff::1"));
        assert!(!trusts("fd00::/8", "fe00::"));
        assert!(trusts("0.0.0.0/0", "203.0.113.9"));
        assert!(trusts("::1", "::1"));
        assert!(!trusts("::1", "::2"));
    }

    #[test]
    fn the_families_stay_apart_and_a_mapped_address_is_the_one_it_stands_for() {
        assert!(trusts("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(trusts("::ffff:10.0.0.0/104", "10.1.1.1"));
        assert!(!trusts("::ffff:10.0.0.0/104", "11.1.1.1"));
        assert!(!trusts("::/0", "10.1.1.1"));
        assert!(!trusts("::/0", "::ffff:10.1.1.1"));
        assert!(!trusts("0.0.0.0/0", "2001:db8::1"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, message) in [
            ("10.0.0.1/8", "\"10.0.0.1/8\" names an address inside a network: write 10.0.0.0/8 for the network"),
            ("fd00::1/64", "\"fd00::1/64\" names an address inside a network: write fd00::/64 for the network"),
            ("10.0.0.0/33", "\"10.0.0.0/33\" is no network: after the / comes a number up to 32"),
            ("10.0.0.0/", "\"10.0.0.0/\" is no network: after the / comes a number up to 32"),
            ("::/+1", "\"::/+1\" is no network: after the / comes a number up to 128"),
            (
                "localhost",
                "\"localhost\" is no network: write an address in numbers, such as 10.0.0.0/8, fd00::/8 or ::1",
            ),
        ] {
            assert_eq!(text.parse::<TrustedPeers>().unwrap_err().to_string(), message);
        }
        assert!("10.1/16".parse::<TrustedPeers>().is_err());
        assert!("fe80::1%eth0".parse::<TrustedPeers>().is_err());
    }

    proptest! {
        #[test]
        fn an_address_is_in_its_own_network_of_any_size(bits: u128, prefix in 0_u8..=128, flipped in 0_u8..128) {
            let first = Ipv6Addr::from_bits(bits & mask(prefix));
            let other = Ipv6Addr::from_bits(bits ^ (1 << (127 - flipped)));
            prop_assume!(first.to_ipv4_mapped().is_none() && other.to_ipv4_mapped().is_none());
            let trusted: TrustedPeers = format!("{first}/{prefix}").parse().unwrap();
            prop_assert_eq!(trusted.contains(IpAddr::V6(other)), flipped >= prefix);
        }
    }
}
