//! The block suite: random sessions against an array of bytes.

use super::block::pattern;
use super::lab::{Lab, Setup};
use blkfront::SubmitError;
use blkfront::blocking::{Disk, DiskError};

/// One step of a random session.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Write `sectors` from `sector` on, with bytes of this seed.
    Write {
        sector: u64,
        sectors: u64,
        seed: u64,
    },
    /// Read and compare.
    Read { sector: u64, sectors: u64 },
    /// Flush.
    Flush,
    /// Lose power: the model goes back to the last flush.
    Crash,
    /// Close and reconnect.
    Reconnect,
}

/// Whatever is done, the disk holds what a plain array of bytes would.
pub fn agrees_with_a_model<L: Lab>(actions: &[Action], shuffle: u64) {
    const SECTORS: u64 = 256;
    let lab = L::new(Setup {
        sectors: SECTORS,
        shuffle: Some(shuffle),
        ..Setup::default()
    });
    lab.run(|queue| {
        let mut model = vec![0u8; SECTORS as usize * 512];
        let mut durable = model.clone();
        for action in actions {
            let range = |sector: u64, sectors: u64| {
                sector as usize * 512..(sector + sectors) as usize * 512
            };
            match *action {
                Action::Write {
                    sector,
                    sectors,
                    seed,
                } => {
                    let bytes = pattern(seed, sectors as usize * 512);
                    let result = Disk::new(queue, 0).unwrap().write_from(sector, &bytes);
                    if sector + sectors > SECTORS {
                        assert_eq!(result, Err(DiskError::Refused(SubmitError::BeyondEnd)));
                    } else {
                        result.unwrap();
                        model[range(sector, sectors)].copy_from_slice(&bytes);
                    }
                }
                Action::Read { sector, sectors } => {
                    let mut bytes = vec![0; sectors as usize * 512];
                    let result = Disk::new(queue, 0).unwrap().read_into(sector, &mut bytes);
                    if sector + sectors > SECTORS {
                        assert_eq!(result, Err(DiskError::Refused(SubmitError::BeyondEnd)));
                    } else {
                        result.unwrap();
                        assert!(bytes == model[range(sector, sectors)]);
                    }
                }
                Action::Flush => {
                    Disk::new(queue, 0).unwrap().flush().unwrap();
                    durable.clone_from(&model);
                }
                Action::Crash => {
                    lab.disk().lock().unwrap().crash();
                    model.clone_from(&durable);
                }
                Action::Reconnect => queue.reconnect().unwrap(),
            }
        }
        assert!(lab.disk().lock().unwrap().contents() == model);
    });
    assert_eq!(lab.violations(), [""; 0]);
}
