//! Decides which servers of an Electric service receive shapes, by how long each was healthy or unhealthy.
//!
//! Only one server knows a handle; on another server, clients must load their shape again. A server that fails
//! therefore keeps its shapes for `failover`, while clients are told to wait. Its shapes return once it has been
//! healthy for `failover`. Nothing moves unless another server has been healthy for `failover`: after an outage of the
//! database, which all servers share, every handle is still on its server.

use std::time::Duration;

use tokio::time::Instant;

use super::health::Health;

/// The number of consecutive health checks that change a server's state. A single one may be an accident.
pub(super) const IN_A_ROW: u32 = 2;

/// The servers of one Electric service, by their place in its list.
#[derive(Debug)]
pub(super) struct Rotation {
    failover: Duration,
    members: Vec<Member>,
}

/// The state of one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// The result of its last health check.
    pub(super) said: Health,
    /// Whether its health checks say that it is healthy.
    pub(super) ready: bool,
    /// Whether its shapes go to it.
    pub(super) inside: bool,
    /// When `ready` changed.
    since: Instant,
    /// Consecutive health checks that contradict `ready`.
    contrary: u32,
}

/// A server that has left the rotation or returned to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) place: usize,
    pub(super) inside: bool,
}

impl Rotation {
    /// Creates a rotation in which all servers count as healthy until they are checked.
    pub(super) fn new(count: usize, failover: Duration) -> Self {
        let member = Member { said: Health::Active, ready: true, inside: true, since: Instant::now(), contrary: 0 };
        Self { failover, members: vec![member; count] }
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Records the result of a health check.
    pub(super) fn observe(&mut self, place: usize, said: Health, now: Instant) {
        let Some(member) = self.members.get_mut(place) else { return };
        let healthy = said == Health::Active;
        member.said = said;
        member.contrary = if healthy == member.ready { 0 } else { member.contrary + 1 };
        if member.contrary == IN_A_ROW {
            (member.ready, member.since, member.contrary) = (healthy, now, 0);
        }
    }

    /// Decides after the first health checks. A server that is not ready starts outside if another is ready, so that a
    /// standby does not make clients wait whenever this process starts.
    pub(super) fn begin(&mut self, now: Instant) -> Vec<Moved> {
        let none = !self.members.iter().any(|member| member.ready);
        for member in &mut self.members {
            (member.since, member.inside) = (now, member.ready || none);
        }
        let outside = self.members.iter().enumerate().filter(|(_, member)| !member.inside);
        outside.map(|(place, _)| Moved { place, inside: false }).collect()
    }

    /// Moves the servers that are due. Those that return move first.
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

    fn rotation(ready: &[bool], now: Instant) -> (Rotation, Vec<Moved>) {
        let mut rotation = Rotation::new(ready.len(), Duration::from_secs(FAILOVER));
        ready.iter().enumerate().for_each(|(place, ready)| find(&mut rotation, place, *ready, now));
        let outside = rotation.begin(now);
        (rotation, outside)
    }

    fn find(rotation: &mut Rotation, place: usize, ready: bool, now: Instant) {
        let said = if ready { Health::Active } else { Health::Silent };
        (0..IN_A_ROW).for_each(|_| rotation.observe(place, said, now));
    }

    /// Returns all moves, second by second, given health changes at these seconds: `(second, place, ready)`.
    fn moves(count: usize, found: &[(u64, usize, bool)], until: u64) -> Vec<(u64, usize, bool)> {
        let start = Instant::now();
        let (mut rotation, _) = rotation(&vec![true; count], start);
        let mut moves = Vec::new();
        for second in 0..until {
            let now = start + Duration::from_secs(second);
            for (_, place, ready) in found.iter().filter(|(at, ..)| *at == second) {
                find(&mut rotation, *place, *ready, now);
            }
            moves.extend(rotation.advance(now).into_iter().map(|moved| (second, moved.place, moved.inside)));
        }
        moves
    }

    #[test]
    fn a_single_health_check_changes_nothing() {
        let now = Instant::now();
        let (mut rotation, _) = rotation(&[true, true], now);
        let mut ready_after = |said| {
            rotation.observe(0, said, now);
            (rotation.members()[0].ready, rotation.members()[0].said == said)
        };
        assert_eq!(ready_after(Health::Silent), (true, true));
        assert_eq!(ready_after(Health::Active), (true, true));
        assert_eq!(ready_after(Health::Says(202)), (true, true));
        assert_eq!(ready_after(Health::Unreachable), (false, true));
        assert_eq!(ready_after(Health::Active), (false, true));
        assert_eq!(ready_after(Health::Active), (true, true));
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
    fn nothing_moves_if_no_other_server_is_ready() {
        assert_eq!(moves(1, &[(0, 0, false)], 100), []);
        assert_eq!(moves(2, &[(10, 0, false), (20, 1, false)], 200), []);
        let outage = [(10, 0, false), (10, 1, false), (150, 1, true)];
        assert_eq!(moves(2, &outage, 200), [(180, 0, false)]);
        // The first server to recover does not take the shapes of the others.
        assert_eq!(moves(2, &[outage.as_slice(), &[(179, 0, true)]].concat(), 300), []);
    }

    #[test]
    fn the_last_server_in_rotation_leaves_when_another_has_returned() {
        let found = [(0, 0, false), (40, 1, false), (50, 0, true)];
        assert_eq!(moves(2, &found, 200), [(30, 0, false), (80, 0, true), (80, 1, false)]);
    }

    #[test]
    fn a_server_that_is_not_ready_at_the_start_is_outside_if_another_is_ready() {
        let now = Instant::now();
        let outside = |ready: &[bool]| rotation(ready, now).1.iter().map(|moved| moved.place).collect::<Vec<_>>();
        assert_eq!(outside(&[true, false, true, false]), [1, 3]);
        assert_eq!(outside(&[false, false]), [] as [usize; 0]);
        let (mut rotation, _) = rotation(&[true, false], now);
        find(&mut rotation, 1, true, now + Duration::from_secs(5));
        assert_eq!(rotation.advance(now + Duration::from_secs(34)), []);
        assert_eq!(rotation.advance(now + Duration::from_secs(35)), [Moved { place: 1, inside: true }]);
    }
}
