//! Under which addresses a socket can be reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most addresses that an endpoint names, and that a dial tries.
pub(super) const ADDRESSES_MAX: usize = 16;

/// The addresses of the machine's interfaces that are up.
pub(crate) fn interface_addresses() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces
            .iter()
            .filter(|interface| interface.is_oper_up() || interface.is_loopback())
            .map(if_addrs::Interface::ip)
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot list the network interfaces: only loopback is announced");
            vec![Ipv4Addr::LOCALHOST.into()]
        }
    }
}

/// The addresses at which a socket bound to `bound` can be reached from elsewhere, best first, given those of
/// the machine's interfaces.
///
/// A specific address stands for itself. For an unspecified one, other nodes on this machine reach the
/// interfaces' addresses as well as nodes on the network do, so loopback, which means somebody else to every
/// other machine, is named only where there is nothing else.
pub(super) fn reachable(bound: SocketAddr, interfaces: &[IpAddr]) -> Vec<SocketAddr> {
    if !bound.ip().is_unspecified() {
        return vec![super::connection::canonical(bound)];
    }
    let mut ranked: Vec<(u8, IpAddr)> = Vec::new();
    for ip in interfaces {
        if bound.is_ipv4() && ip.is_ipv6() {
            continue;
        }
        if let Some(rank) = rank(*ip)
            && !ranked.contains(&(rank, *ip))
        {
            ranked.push((rank, *ip));
        }
    }
    // Stable: within a rank, the operating system's order stays, which has physical interfaces first.
    ranked.sort_by_key(|(rank, _)| *rank);
    let best = ranked.first().map_or(LOOPBACK, |(rank, _)| *rank);
    ranked.retain(|(rank, _)| *rank < LOOPBACK || *rank == best);
    ranked.truncate(ADDRESSES_MAX);
    ranked
        .into_iter()
        .map(|(_, ip)| SocketAddr::new(ip, bound.port()))
        .collect()
}

/// The rank of loopback addresses, the last.
const LOOPBACK: u8 = 3;

/// How good an address is to be dialled, best first; `None` where it is of no use. IPv4 goes before IPv6:
/// in private networks it is what somebody has set up on purpose.
fn rank(ip: IpAddr) -> Option<u8> {
    match ip {
        IpAddr::V4(ip) if ip.is_loopback() => Some(LOOPBACK),
        IpAddr::V4(ip) if ip.is_link_local() => Some(2),
        IpAddr::V4(ip) => (!ip.is_unspecified() && !ip.is_multicast()).then_some(0),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Some(LOOPBACK),
        // They mean nothing without the name of an interface of the dialer's.
        IpAddr::V6(ip) if ip.is_unicast_link_local() => None,
        IpAddr::V6(ip) => (!ip.is_unspecified() && !ip.is_multicast()).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(bound: &str, interfaces: &[&str]) -> Vec<String> {
        let interfaces: Vec<IpAddr> = interfaces.iter().map(|ip| ip.parse().unwrap()).collect();
        reachable(bound.parse().unwrap(), &interfaces)
            .iter()
            .map(SocketAddr::to_string)
            .collect()
    }

    const MACHINE: [&str; 5] = ["127.0.0.1", "::1", "2001:db8::7", "fe80::1", "192.0.2.7"];

    #[test]
    fn unspecified_addresses_become_those_of_the_interfaces() {
        assert_eq!(
            addresses("[::]:7000", &MACHINE),
            ["192.0.2.7:7000", "[2001:db8::7]:7000"]
        );
        assert_eq!(addresses("0.0.0.0:7000", &MACHINE), ["192.0.2.7:7000"]);
    }

    #[test]
    fn loopback_is_named_where_there_is_nothing_else() {
        assert_eq!(
            addresses("[::]:7000", &MACHINE[..2]),
            ["127.0.0.1:7000", "[::1]:7000"]
        );
        assert_eq!(addresses("0.0.0.0:7000", &MACHINE[..2]), ["127.0.0.1:7000"]);
    }

    #[test]
    fn a_specific_address_stands_for_itself() {
        assert_eq!(addresses("127.0.0.1:7000", &MACHINE), ["127.0.0.1:7000"]);
        assert_eq!(addresses("[::1]:7000", &MACHINE), ["[::1]:7000"]);
        assert_eq!(
            addresses("[::ffff:192.0.2.7]:7000", &MACHINE),
            ["192.0.2.7:7000"]
        );
    }

    #[test]
    fn addresses_that_need_no_configuration_come_last_and_repeated_ones_once() {
        assert_eq!(
            addresses(
                "[::]:1",
                &["169.254.1.1", "2001:db8::7", "192.0.2.7", "192.0.2.7"]
            ),
            ["192.0.2.7:1", "[2001:db8::7]:1", "169.254.1.1:1"]
        );
    }

    #[test]
    fn their_number_is_bounded() {
        let many: Vec<String> = (0..40).map(|n| format!("192.0.2.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(addresses("0.0.0.0:1", &many).len(), ADDRESSES_MAX);
    }

    #[test]
    fn this_machine_has_an_address() {
        let interfaces = interface_addresses();
        let bound = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 1);
        assert!(!reachable(bound, &interfaces).is_empty());
    }
}
