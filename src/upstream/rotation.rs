//! Which servers of a pool shapes go to, by how long each was ready or not.
//!
//! A handle lives on one server: elsewhere it is unknown, and its clients load their shape again. So a server that fails
//! keeps its shapes for `failover`, in which their clients are told to wait, and one that returns gets them back only
//! when it was ready for as long. Where no other was ready for as long nothing moves: after an outage of the database,
//! which all of a pool share, every handle is where it was.

use std::time::Duration;

use tokio::time::Instant;

/// The servers of one pool, by their place.
#[derive(Debug)]
pub(super) struct Rotation {
    failover: Duration,
    members: Vec<Member>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    ready: bool,
    /// When it became so.
    since: Instant,
    /// Whether its shapes go to it.
    inside: bool,
}

/// A server that has left the rotation, or has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) place: usize,
    pub(super) inside: bool,
}

impl Rotation {
    /// Servers as they are found at the start. Who is not ready is outside from the beginning, where another is: a
    /// standby that waits for its turn must not make clients wait whenever this process starts.
    pub(super) fn new(ready: &[bool], failover: Duration, now: Instant) -> Self {
        let none = !ready.contains(&true);
        let member = |ready: &bool| Member { ready: *ready, since: now, inside: *ready || none };
        Self { failover, members: ready.iter().map(member).collect() }
    }

    /// The places outside.
    pub(super) fn outside(&self) -> impl Iterator<Item = usize> {
        self.members.iter().enumerate().filter(|(_, member)| !member.inside).map(|(place, _)| place)
    }

    /// The server at `place` was found ready, or not.
    pub(super) fn observe(&mut self, place: usize, ready: bool, now: Instant) {
        if let Some(member) = self.members.get_mut(place).filter(|member| member.ready != ready) {
            (member.ready, member.since) = (ready, now);
        }
    }

    /// Moves whom it is time to move; those who return first.
    pub(super) fn advance(&mut self, now: Instant) -> Vec<Moved> {
        let mut moved = Vec::new();
        for inside in [true, false] {
            for place in 0..self.members.len() {
                let member = self.members[place];
                let lasted = |member: &Member| now.saturating_duration_since(member.since) >= self.failover;
                let due = member.inside != inside && member.ready == inside && lasted(&member);
                if due && (inside || self.members.iter().any(|other| other.inside && other.ready && lasted(other))) {
                    self.members[place].inside = inside;
                    moved.push(Moved { place, inside });
                }
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILOVER: u64 = 30;

    /// What moves, at second after second, when servers are found so at these seconds: `(second, place, ready)`.
    fn moves(count: usize, found: &[(u64, usize, bool)], until: u64) -> Vec<(u64, usize, bool)> {
        let start = Instant::now();
        let mut rotation = Rotation::new(&vec![true; count], Duration::from_secs(FAILOVER), start);
        let mut moves = Vec::new();
        for second in 0..until {
            let now = start + Duration::from_secs(second);
            for (_, place, ready) in found.iter().filter(|(at, ..)| *at == second) {
                rotation.observe(*place, *ready, now);
            }
            moves.extend(rotation.advance(now).into_iter().map(|moved| (second, moved.place, moved.inside)));
        }
        moves
    }

    #[test]
    fn a_server_leaves_after_the_failover_time_and_returns_after_as_long() {
        assert_eq!(moves(2, &[(10, 0, false)], 100), [(40, 0, false)]);
        assert_eq!(moves(2, &[(10, 0, false), (50, 0, true)], 100), [(40, 0, false), (80, 0, true)]);
    }

    #[test]
    fn a_short_failure_and_a_short_return_move_nothing() {
        assert_eq!(moves(2, &[(10, 0, false), (39, 0, true)], 100), []);
        let flapping = [(10, 0, false), (50, 0, true), (70, 0, false), (75, 0, true)];
        assert_eq!(moves(2, &flapping, 100), [(40, 0, false)]);
        assert_eq!(moves(2, &flapping, 106), [(40, 0, false), (105, 0, true)]);
    }

    #[test]
    fn where_no_other_is_ready_nothing_moves() {
        assert_eq!(moves(1, &[(0, 0, false)], 100), []);
        assert_eq!(moves(2, &[(10, 0, false), (20, 1, false)], 200), []);
        let outage = [(10, 0, false), (10, 1, false), (150, 1, true)];
        assert_eq!(moves(2, &outage, 200), [(180, 0, false)]);
        // Who is the first to find the database again does not take the shapes of the others.
        assert_eq!(moves(2, &[outage.as_slice(), &[(179, 0, true)]].concat(), 300), []);
    }

    #[test]
    fn the_last_one_inside_makes_room_for_one_that_has_returned() {
        let found = [(0, 0, false), (40, 1, false), (50, 0, true)];
        assert_eq!(moves(2, &found, 200), [(30, 0, false), (80, 0, true), (80, 1, false)]);
    }

    #[test]
    fn who_is_not_ready_at_the_start_is_outside_where_another_is() {
        let now = Instant::now();
        let outside = |ready: &[bool]| Rotation::new(ready, Duration::ZERO, now).outside().collect::<Vec<_>>();
        assert_eq!(outside(&[true, false, true, false]), [1, 3]);
        assert_eq!(outside(&[false, false]), [] as [usize; 0]);
        let mut rotation = Rotation::new(&[true, false], Duration::from_secs(FAILOVER), now);
        rotation.observe(1, true, now + Duration::from_secs(5));
        assert_eq!(rotation.advance(now + Duration::from_secs(34)), []);
        assert_eq!(rotation.advance(now + Duration::from_secs(35)), [Moved { place: 1, inside: true }]);
    }
}
