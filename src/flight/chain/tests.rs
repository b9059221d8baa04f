//! Tests of one body and its readers, with a paused clock.

use super::*;

const PIECE: usize = 64 * 1024;
const WINDOW: usize = 4 * PIECE;

fn open_bytes(most: usize) -> Arc<OpenBytes> {
    let open = OpenBytes::new(Arc::default());
    open.set(most);
    Arc::new(open)
}

fn piece() -> Piece {
    Piece { bytes: Bytes::from(vec![b'x'; PIECE]), end: None, boundary: false }
}

async fn push(writer: &mut Writer, piece: Piece) -> bool {
    let room = writer.room(piece.bytes.len()).await;
    writer.push(piece, room)
}

/// Writes `count` pieces and the end, in a task.
fn write(mut writer: Writer, count: usize) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        for _ in 0..count {
            push(&mut writer, piece()).await;
            writer.publish();
        }
        writer.seal(Bytes::new());
        writer.finish();
    })
}

/// Reads to the end, and returns how it ended and how many bytes there were.
async fn read_all(mut reader: Reader) -> (Result<(), Fault>, usize) {
    let mut length = 0;
    loop {
        let piece = reader.next().await;
        length += piece.bytes.len();
        if let Some(end) = piece.end {
            return (end, length);
        }
    }
}

/// Whether a future is still pending after an hour.
async fn waits(future: impl Future) -> bool {
    tokio::time::timeout(Duration::from_secs(3600), future).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn fast_reader_overtakes_one_that_does_not_read() {
    let open = open_bytes(1 << 30);
    let (chain, writer) = Chain::new(WINDOW, &open);
    let (fast, slow) = (chain.read().unwrap(), chain.read().unwrap());
    let writing = write(writer, 100);
    let slow = async {
        slow.overtaken().await;
        assert!(open.used() <= WINDOW + PIECE);
        let mut slow = slow;
        assert_eq!(slow.next().await.end, Some(Err(Fault::SlowReader)));
    };
    let (((), fast), written) = tokio::join!(async { tokio::join!(slow, read_all(fast)) }, writing);
    written.unwrap();
    assert_eq!(fast, (Ok(()), 100 * PIECE));
    drop(chain);
    assert_eq!(open.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn slow_readers_that_hold_up_nobody_are_not_overtaken() {
    let open = open_bytes(1 << 30);
    let (chain, writer) = Chain::new(WINDOW, &open);
    let (mut first, second) = (chain.read().unwrap(), chain.read().unwrap());
    let mut writing = write(writer, 100);
    // Both are behind by more than the window.
    assert!(waits(&mut writing).await);
    assert_eq!((open.used(), first.is_overtaken(), second.is_overtaken()), (WINDOW, false, false));
    drop(second);
    first.next().await;
    assert_eq!(read_all(first).await, (Ok(()), 99 * PIECE));
    writing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn readers_within_the_window_are_not_overtaken() {
    let open = open_bytes(1 << 30);
    let (chain, writer) = Chain::new(WINDOW, &open);
    let (mut first, mut second) = (chain.read().unwrap(), chain.read().unwrap());
    let writing = write(writer, 50);
    // The first is always ahead, by less than half the window.
    for _ in 0..50 {
        assert_eq!(first.next().await.end, None);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(second.next().await.end, None);
    }
    assert_eq!((first.next().await.end, second.next().await.end), (Some(Ok(())), Some(Ok(()))));
    writing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn bodies_share_one_limit_and_each_goes_on() {
    let open = open_bytes(1 << 20);
    let bodies: Vec<_> = (0..64).map(|_| Chain::new(64 * PIECE, &open)).collect();
    let (chains, writers): (Vec<_>, Vec<_>) = bodies.into_iter().unzip();
    let readers: Vec<_> = chains.iter().map(|chain| chain.read().unwrap()).collect();
    let writing: Vec<_> = writers.into_iter().map(|writer| write(writer, 64)).collect();
    tokio::time::sleep(Duration::from_secs(60)).await;
    // Nobody reads: the limit, and the least for each.
    assert!(open.used() <= (1 << 20) + 64 * 2 * PIECE, "{}", open.used());
    for reader in readers {
        assert_eq!(read_all(reader).await, (Ok(()), 64 * PIECE));
    }
    for written in writing {
        written.await.unwrap();
    }
    drop(chains);
    assert_eq!(open.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_of_a_cached_body_do_not_count_as_in_flight() {
    let open = open_bytes(1 << 30);
    let (chain, mut writer) = Chain::new(WINDOW, &open);
    let reader = chain.read().unwrap();
    for _ in 0..3 {
        push(&mut writer, piece()).await;
    }
    assert!(chain.cached().is_none(), "the end is not known");
    writer.seal(Bytes::new());
    assert_eq!(chain.pieces(), None, "the end is not published");
    let cached = chain.cached().unwrap();
    writer.finish();
    assert_eq!((open.used(), chain.length(), chain.pieces().unwrap().len()), (0, Some(3 * PIECE), 4));
    // The cache evicts it while a client reads it.
    drop(chain);
    drop(cached);
    assert_eq!(open.used(), 3 * PIECE);
    drop(reader);
    assert_eq!(open.used(), 0);
}

#[tokio::test]
async fn short_body_is_one_piece_and_a_long_one_is_not_copied() {
    let open = open_bytes(1 << 30);
    let body = |parts: &'static [usize]| {
        let open = Arc::clone(&open);
        async move {
            let (chain, mut writer) = Chain::new(1 << 30, &open);
            let mut first = None;
            for length in parts {
                let bytes = Bytes::from(vec![b'x'; *length]);
                first.get_or_insert(bytes.as_ptr());
                push(&mut writer, Piece { bytes, end: None, boundary: false }).await;
            }
            writer.seal(Bytes::from_static(b"end"));
            writer.finish();
            let pieces = chain.pieces().unwrap();
            (pieces.len(), first == Some(pieces[0].as_ptr()), chain.length().unwrap())
        }
    };
    assert_eq!(body(&[]).await, (1, false, 3));
    assert_eq!(body(&[10, 20]).await, (1, false, 33));
    assert_eq!(body(&[PIECE, PIECE]).await, (3, true, 2 * PIECE + 3));
}

#[tokio::test(start_paused = true)]
async fn start_is_freed_once_the_window_is_full() {
    let open = open_bytes(1 << 30);
    let (chain, mut writer) = Chain::new(WINDOW, &open);
    for _ in 0..4 {
        assert!(push(&mut writer, piece()).await, "new readers can join");
    }
    assert!(chain.read().is_some());
    // Nobody reads, so freeing the start makes room.
    assert!(!push(&mut writer, piece()).await);
    assert!(chain.read().is_none());
    assert_eq!(open.used(), PIECE);
}

#[tokio::test(start_paused = true)]
async fn length_is_told_only_to_readers_that_need_not_wait_for_the_end() {
    let open = open_bytes(1 << 30);
    let (chain, mut writer) = Chain::new(WINDOW, &open);
    let mut early = chain.read().unwrap();
    push(&mut writer, piece()).await;
    writer.publish();
    writer.seal(Bytes::new());
    assert_eq!((early.known_length(), chain.read().unwrap().known_length()), (None, Some(PIECE)));
    writer.finish();
    assert_eq!(early.known_length(), Some(PIECE));
    assert_eq!(early.next().await.end, None);
}
