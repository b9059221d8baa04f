//! Which servers of an Electric have shapes, by how long each was healthy or not.
//!
//! A handle is known to one server only: elsewhere its clients must load their shape again. So a server that fails keeps
//! its shapes for `failover`, while their clients are told to wait, and gets them back only once it has been healthy for
//! as long. Nothing moves unless another server has been healthy for `failover`: after an outage of the database, which
//! all servers share, every handle is where it was.

use std::time::Duration;

use tokio::time::Instant;

use super::health::Health;

/// One answer may be an accident: so many in a row change what a server is taken for.
pub(super) const IN_A_ROW: u32 = 2;

/// The servers of one Electric, by their place in its list.
#[derive(Debug)]
pub(super) struct Rotation {
    failover: Duration,
    members: Vec<Member>,
}

/// What is known of one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// Its last answer.
    pub(super) said: Health,
    /// Whether its answers say that it is healthy.
    pub(super) ready: bool,
    /// Whether its shapes go to it.
    pub(super) inside: bool,
    /// When `ready` changed.
    since: Instant,
    /// Answers in a row that contradict `ready`.
    contrary: u32,
}

/// A server that has left the rotation, or has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) place: usize,
    pub(super) inside: bool,
}

impl Rotation {
    /// Takes all servers for healthy until they are asked.
    pub(super) fn new(count: usize, failover: Duration) -> Self {
        let member = Member { said: Health::Active, ready: true, inside: true, since: Instant::now(), contrary: 0 };
        Self { failover, members: vec![member; count] }
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Notes what a server has answered.
    pub(super) fn observe(&mut self, place: usize, said: Health, now: Instant) {
        let Some(member) = self.members.get_mut(place) else { return };
        let healthy = said == Health::Active;
        member.said = said;
        member.contrary = if healthy == member.ready { 0 } else { member.contrary + 1 };
        if member.contrary == IN_A_ROW {
            (member.ready, member.since, member.contrary) = (healthy, now, 0);
        }
    }

    /// Decides after the first answers. A server that is not ready is outside from the beginning, if another is ready:
    /// a standby must not make clients wait whenever this process starts.
    pub(super) fn begin(&mut self, now: Instant) -> Vec<Moved> {
        let none = !self.members.iter().any(|member| member.ready);
        for member in &mut self.members {
            (member.since, member.inside) = (now, member.ready || none);
        }
        let outside = self.members.iter().enumerate().filter(|(_, member)| !member.inside);
        outside.map(|(place, _)| Moved { place, inside: false }).collect()
    }

    /// Moves the servers whose time has come; those that return first.
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

    /// What moves, at second after second, when servers are found so at these seconds: `(second, place, ready)`.
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
    fn one_answer_alone_changes_nothing() {
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
