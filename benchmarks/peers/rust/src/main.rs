//! rust-libp2p's limits and governor, for benchmarks.peers: rcmgr-peers WORK PEERS ORDER
//!
//! The files and the lines are as in ../../go/main.go. The bytes are those of the process's
//! resident memory.

use std::io::BufRead;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::{env, fs, io};

use governor::{Quota, RateLimiter};
use libp2p_connection_limits as connection_limits;
use libp2p_core::{ConnectedPoint, Multiaddr};
use libp2p_identity::PeerId;
use libp2p_memory_connection_limits as memory_connection_limits;
use libp2p_swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p_swarm::{ConnectionId, FromSwarm, NetworkBehaviour};

const ID_LENGTH: usize = 38;

type Peers = Vec<[u8; ID_LENGTH]>;
type Run = Box<dyn FnMut(&[u32])>;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let peers: Peers = fs::read(&arguments[2])
        .unwrap()
        .chunks_exact(ID_LENGTH)
        .map(|id| id.try_into().unwrap())
        .collect();
    let order: Vec<u32> = fs::read(&arguments[3])
        .unwrap()
        .chunks_exact(4)
        .map(|index| u32::from_le_bytes(index.try_into().unwrap()))
        .collect();
    let count = peers.len();
    let (mut run, grown) = match arguments[1].as_str() {
        "states" => states(&peers),
        "state refused" => state_refused(),
        "bucket" => bucket(peers),
        "memory" => memory(),
        other => panic!("unknown work {other}"),
    };
    println!("ready {}", grown / count);
    for line in io::stdin().lock().lines() {
        line.unwrap();
        run(&order);
        let start = thread_nanoseconds();
        run(&order);
        let each = (thread_nanoseconds() - start) as f64 / order.len() as f64;
        println!("{each:.1}");
    }
}

/// Limits that nothing reaches, of all six kinds.
fn limits() -> connection_limits::ConnectionLimits {
    let many = Some(1_000_000_000);
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(many)
        .with_max_pending_outgoing(many)
        .with_max_established_incoming(many)
        .with_max_established_outgoing(many)
        .with_max_established_per_peer(many)
        .with_max_established(many)
}

struct Swarm {
    limits: connection_limits::Behaviour,
    address: Multiaddr,
    endpoint: ConnectedPoint,
    next: usize,
}

impl Swarm {
    fn new(limits: connection_limits::ConnectionLimits) -> Self {
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/4001".parse().unwrap();
        let endpoint = ConnectedPoint::Listener {
            local_addr: address.clone(),
            send_back_addr: address.clone(),
        };
        let limits = connection_limits::Behaviour::new(limits);
        Self { limits, address, endpoint, next: 0 }
    }

    /// The calls of a swarm for a connection from its accept to its place among the others.
    fn connect(&mut self, peer_id: PeerId) -> ConnectionId {
        self.next += 1;
        let connection_id = ConnectionId::new_unchecked(self.next);
        self.limits
            .handle_pending_inbound_connection(connection_id, &self.address, &self.address)
            .unwrap();
        self.limits
            .handle_established_inbound_connection(
                connection_id, peer_id, &self.address, &self.address)
            .unwrap();
        self.limits.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id,
            connection_id,
            endpoint: &self.endpoint,
            failed_addresses: &[],
            other_established: 1,
        }));
        connection_id
    }

    fn close(&mut self, peer_id: PeerId, connection_id: ConnectionId) {
        self.limits.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id,
            connection_id,
            endpoint: &self.endpoint,
            cause: None,
            remaining_established: 1,
        }));
    }
}

fn states(peers: &Peers) -> (Run, usize) {
    let peers: Vec<PeerId> = peers.iter().map(|id| PeerId::from_bytes(id).unwrap()).collect();
    let before = resident_bytes();
    let mut swarm = Swarm::new(limits());
    for peer in &peers {
        swarm.connect(*peer);
    }
    let grown = resident_bytes() - before;
    let run = move |order: &[u32]| {
        for index in order {
            let peer = peers[*index as usize];
            let connection = swarm.connect(peer);
            swarm.close(peer, connection);
        }
    };
    (Box::new(run), grown)
}

fn state_refused() -> (Run, usize) {
    let mut swarm = Swarm::new(limits().with_max_pending_incoming(Some(0)));
    let connection_id = ConnectionId::new_unchecked(0);
    let run = move |order: &[u32]| {
        for _ in order {
            let swarm = black_box(&mut swarm);
            black_box(
                swarm
                    .limits
                    .handle_pending_inbound_connection(
                        connection_id, &swarm.address, &swarm.address)
                    .unwrap_err(),
            );
        }
    };
    (Box::new(run), 0)
}

fn bucket(peers: Peers) -> (Run, usize) {
    let before = resident_bytes();
    let quota = Quota::per_second(NonZeroU32::new(1).unwrap())
        .allow_burst(NonZeroU32::new(1_000_000_000).unwrap());
    let limiter = RateLimiter::keyed(quota);
    for peer in &peers {
        limiter.check_key(peer).unwrap();
    }
    let grown = resident_bytes() - before;
    let run = move |order: &[u32]| {
        for index in order {
            limiter.check_key(&peers[*index as usize]).unwrap();
        }
    };
    (Box::new(run), grown)
}

fn memory() -> (Run, usize) {
    let mut limits = memory_connection_limits::Behaviour::with_max_percentage(1.0);
    let address: Multiaddr = "/ip4/192.0.2.1/tcp/4001".parse().unwrap();
    let connection_id = ConnectionId::new_unchecked(0);
    let run = move |order: &[u32]| {
        for _ in order {
            black_box(&mut limits)
                .handle_pending_inbound_connection(connection_id, &address, &address)
                .unwrap();
        }
    };
    (Box::new(run), 0)
}

fn thread_nanoseconds() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
