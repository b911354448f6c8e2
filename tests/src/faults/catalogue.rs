//! What is done to the fleet in network namespaces.

use std::time::Duration;

use anyhow::ensure;

use super::configuration::{ADDED_NAME, EDGES, KEY_SERVER_PORT};
use super::fault::Fault;
use super::world::{KEY_SERVERS, World};
use crate::stack::{Process, Signal, wait_until};

type Faults = Vec<Fault<World>>;

/// Long enough that what fails at once and what fails later are both seen.
const HOLD: Duration = Duration::from_secs(3);
/// Longer than a key client waits for an answer (5 s), and for a silent connection's sign of life (10 s).
const LONG_HOLD: Duration = Duration::from_secs(12);
/// What is slow between machines of one continent.
const DELAY: Duration = Duration::from_millis(50);

/// Faults of processes, of the network, and those that are no faults: reloads and restarts.
pub(super) fn fleet(quick: bool) -> Faults {
    let (first_server, first_edge) = (upto(KEY_SERVERS, quick), upto(EDGES.len(), quick));
    let mut faults = vec![Fault::new("nothing", HOLD, |_: &mut World| Ok(()))];
    faults.extend(first_server.clone().map(kill_key_server));
    faults.extend(first_edge.clone().map(kill_edge));
    faults.extend(first_server.clone().map(stop_key_server));
    faults.extend(first_edge.map(stop_edge));
    faults.extend(first_server.clone().flat_map(|index| cuts(&[index], &format!("key-server-{}", index + 1), quick)));
    faults.extend(first_server.clone().flat_map(|index| cuts(&others(index), &all_but(index), quick)));
    faults.extend(first_server.clone().map(|index| delay(vec![index], &format!("key-server-{}", index + 1))));
    faults.extend(first_server.map(|index| delay(others(index), &all_but(index))));
    faults.push(halve_network());
    faults.extend([reload_by_signal(), reload_by_file(), reload_hosts(), revoke_edge()]);
    faults.extend([roll_key_servers(), roll_edges()]);
    faults
}

/// Faults that matter when ticket keys change every few seconds.
pub(super) fn rotation(quick: bool) -> Faults {
    let mut faults = vec![Fault::new("rotate-ticket-keys", 3 * ROTATION, |_: &mut World| Ok(()))];
    faults.extend(upto(KEY_SERVERS, quick).map(|index| {
        let name = format!("fill-disk-of-key-server-{}", index + 1);
        let inject = move |world: &mut World| world.key_server(index)?.fill_disk();
        Fault::new(name, 2 * ROTATION, inject).repaired_by(move |world| world.key_server(index)?.free_disk())
    }));
    faults.extend(upto(EDGES.len(), quick).map(|index| {
        let name = format!("fill-disk-of-edge-{}", index + 1);
        let inject = move |world: &mut World| world.edge(index)?.fill_disk();
        Fault::new(name, 2 * ROTATION, inject).repaired_by(move |world| world.edge(index)?.free_disk())
    }));
    faults
}

/// The period of [`rotation`].
pub(super) const ROTATION: Duration = Duration::from_secs(4);

/// Clocks that go wrong.
pub(super) fn clocks(quick: bool) -> Faults {
    let mut faults = Vec::new();
    let offsets: &[&str] = if quick { &["+1h", "-1h"] } else { &["+1m", "-1m", "+1h", "-1h", "+1d", "-1d"] };
    for offset in offsets.iter().copied() {
        let inject = move |world: &mut World| world.key_server(0)?.set_clock(offset);
        let fault = Fault::new(format!("move-clock-of-key-server-1-by{offset}"), HOLD, inject);
        faults.push(fault.repaired_by(|world| world.key_server(0)?.set_clock("+0")));
        if !quick || offset == "+1h" {
            let inject = move |world: &mut World| world.edge(0)?.set_clock(offset);
            let fault = Fault::new(format!("move-clock-of-edge-1-by{offset}"), HOLD, inject);
            faults.push(fault.repaired_by(|world| world.edge(0)?.set_clock("+0")));
        }
    }
    faults
}

fn upto(all: usize, quick: bool) -> std::ops::Range<usize> {
    0..if quick { 1 } else { all }
}

fn others(index: usize) -> Vec<usize> {
    (0..KEY_SERVERS).filter(|other| *other != index).collect()
}

fn all_but(index: usize) -> String {
    format!("all-but-key-server-{}", index + 1)
}

fn kill_key_server(index: usize) -> Fault<World> {
    let inject = move |world: &mut World| world.kill_key_server(index);
    Fault::new(format!("kill-key-server-{}", index + 1), HOLD, inject).repaired_by(move |world| {
        world.key_server(index)?.process.restart();
        Ok(())
    })
}

fn kill_edge(index: usize) -> Fault<World> {
    let inject = move |world: &mut World| world.kill_edge(index);
    Fault::new(format!("kill-edge-{}", index + 1), HOLD, inject).taking_an_edge_away().repaired_by(move |world| {
        let edge = world.edge(index)?;
        edge.process.start_again();
        edge.wait_edge();
        Ok(())
    })
}

fn stop_key_server(index: usize) -> Fault<World> {
    let inject = move |world: &mut World| {
        world.key_server(index)?.process.stop();
        Ok(())
    };
    Fault::new(format!("stop-key-server-{}", index + 1), LONG_HOLD, inject).repaired_by(move |world| {
        world.key_server(index)?.process.signal(Signal::CONT);
        Ok(())
    })
}

fn stop_edge(index: usize) -> Fault<World> {
    let inject = move |world: &mut World| {
        world.edge(index)?.process.stop();
        Ok(())
    };
    Fault::new(format!("stop-edge-{}", index + 1), HOLD, inject).taking_an_edge_away().repaired_by(move |world| {
        world.edge(index)?.process.signal(Signal::CONT);
        Ok(())
    })
}

/// The cable is pulled; packets are lost.
fn cuts(servers: &[usize], name: &str, quick: bool) -> Faults {
    let (unplugged, lossy) = (servers.to_vec(), servers.to_vec());
    let (plug_in, whole) = (unplugged.clone(), lossy.clone());
    let pull = Fault::new(format!("unplug-{name}"), LONG_HOLD, move |world: &mut World| {
        unplugged.iter().try_for_each(|index| world.key_server(*index)?.place.set_connected(false))
    });
    let pull = pull.repaired_by(move |world| {
        plug_in.iter().try_for_each(|index| world.key_server(*index)?.place.set_connected(true))
    });
    let lose = Fault::new(format!("lose-packets-of-{name}"), LONG_HOLD, move |world: &mut World| {
        lossy.iter().try_for_each(|index| world.key_server(*index)?.place.lose_everything())
    });
    let lose =
        lose.repaired_by(move |world| whole.iter().try_for_each(|index| world.key_server(*index)?.place.set_rate(100)));
    // To lose packets silently is the harder of the two.
    if quick { vec![lose] } else { vec![pull, lose] }
}

fn delay(servers: Vec<usize>, name: &str) -> Fault<World> {
    let inject = move |world: &mut World| {
        servers.iter().try_for_each(|index| {
            let delay = world.key_server(*index)?.place.delay(KEY_SERVER_PORT, DELAY)?;
            world.delays.push(delay);
            Ok(())
        })
    };
    let fault = Fault::new(format!("delay-{name}-by-{}ms", DELAY.as_millis()), HOLD, inject);
    fault.repaired_by(|world| world.delays.drain(..).try_for_each(super::network::Delay::end))
}

fn halve_network() -> Fault<World> {
    let set = |percent| move |world: &mut World| world.key_servers.iter().try_for_each(|it| it.place.set_rate(percent));
    Fault::new("halve-network", HOLD, set(50)).repaired_by(set(100))
}

fn reload_by_signal() -> Fault<World> {
    Fault::new("reload-certificate-by-sighup", HOLD, |world: &mut World| {
        let before = reloads(world);
        world.replace_certificate()?;
        world.key_servers.iter().for_each(|node| node.process.signal(Signal::HUP));
        wait_for_reloads(world, &before);
        Ok(())
    })
}

fn reload_by_file() -> Fault<World> {
    Fault::new("reload-certificate-by-file-change", HOLD, |world: &mut World| {
        let before = reloads(world);
        world.replace_certificate()?;
        wait_for_reloads(world, &before);
        Ok(())
    })
}

fn applied(process: &Process) -> i64 {
    process.metric("keystead_keyserver_reloads_total", &[("outcome", "applied")])
}

fn reloads(world: &World) -> Vec<i64> {
    world.key_servers.iter().map(|node| applied(&node.process)).collect()
}

fn wait_for_reloads(world: &World, before: &[i64]) {
    for (node, before) in world.key_servers.iter().zip(before) {
        wait_until(&format!("{} has loaded the certificate", node.name), || applied(&node.process) > *before);
    }
}

fn reload_hosts() -> Fault<World> {
    let add = |world: &mut World| {
        let first = world.edge(0)?.clients_address();
        ensure!(!world.load.is_served(first, ADDED_NAME), "the host is there already");
        world.add_host(true)?;
        (0..EDGES.len()).try_for_each(|edge| world.wait_served(edge, ADDED_NAME, true))
    };
    Fault::new("reload-host-by-file-change", HOLD, add).repaired_by(|world| {
        world.add_host(false)?;
        (0..EDGES.len()).try_for_each(|edge| world.wait_served(edge, ADDED_NAME, false))
    })
}

/// The second edge, from which clients are sent away first.
fn revoke_edge() -> Fault<World> {
    let revoke = |world: &mut World| {
        world.load.set_in_use(1, false);
        std::thread::sleep(Duration::from_secs(1));
        world.revoke(Some(1))?;
        world.wait_served(1, "localhost", false)
    };
    Fault::new("revoke-edge-2", HOLD, revoke).repaired_by(|world| {
        world.revoke(None)?;
        world.wait_served(1, "localhost", true)?;
        world.load.set_in_use(1, true);
        Ok(())
    })
}

fn roll_key_servers() -> Fault<World> {
    Fault::new("roll-key-servers", Duration::ZERO, |world: &mut World| {
        (0..KEY_SERVERS).try_for_each(|index| world.roll_key_server(index))
    })
}

fn roll_edges() -> Fault<World> {
    Fault::new("roll-edges", Duration::ZERO, |world: &mut World| {
        (0..EDGES.len()).try_for_each(|index| world.succeed(index))
    })
}
