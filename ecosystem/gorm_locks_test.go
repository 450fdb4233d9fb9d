package ecosystem

import (
	"sync"
	"testing"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// gormJob is a row that workers lock.
type gormJob struct {
	ID   uint
	Done int
}

func (s *stage) gormJobs(n int) *gorm.DB {
	db := s.gorm()
	s.must(db.AutoMigrate(&gormJob{}))
	s.must(db.Create(make([]gormJob, n)).Error)
	return db
}

// Two transactions lock the same rows: the second one skips them, is refused, or waits.
func TestGORMRowLocks(t *testing.T) {
	run(t, 2, postgresServers, func(s *stage) {
		db := s.gormJobs(4)
		first, second := db.Begin(), db.Begin()
		var held, got []gormJob
		s.must(first.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).Order("id").Limit(2).Find(&held).Error)
		s.see("held", held)
		s.must(second.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate, Options: clause.LockingOptionsSkipLocked}).
			Order("id").Find(&got).Error)
		s.see("the others", got)
		s.must(second.SavePoint("refused").Error)
		nowait := clause.Locking{Strength: clause.LockingStrengthUpdate, Options: clause.LockingOptionsNoWait}
		s.fails("NOWAIT", second.Clauses(nowait).Find(&got, held[0].ID).Error)
		s.must(second.RollbackTo("refused").Error)
		s.must(second.Clauses(clause.Locking{
			Strength: clause.LockingStrengthShare, Table: clause.Table{Name: clause.CurrentTable}, Options: clause.LockingOptionsSkipLocked,
		}).Where("id > ?", 2).Order("id").Find(&got).Error)
		s.see("FOR SHARE OF", got)

		waited := make(chan error, 1)
		var job gormJob
		go func() {
			waited <- second.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).Take(&job, held[0].ID).Error
		}()
		s.must(first.Model(&gormJob{}).Where("id = ?", held[0].ID).Update("done", 7).Error)
		s.must(first.Commit().Error)
		s.must(<-waited)
		s.see("what the first one wrote", job)
		s.must(second.Commit().Error)
	})
}

// Workers take jobs by SKIP LOCKED from more goroutines than there are connections: each job is done once.
func TestGORMSkipLockedWorkers(t *testing.T) {
	const jobs = 40
	run(t, 3, postgresServers, func(s *stage) {
		db := s.gormJobs(jobs)
		lock := clause.Locking{Strength: clause.LockingStrengthUpdate, Options: clause.LockingOptionsSkipLocked}
		var workers sync.WaitGroup
		errs := make(chan error, 8)
		for range cap(errs) {
			workers.Go(func() {
				for {
					found := int64(0)
					err := db.Transaction(func(tx *gorm.DB) error {
						var job []gormJob
						res := tx.Clauses(lock).Where("done = 0").Limit(1).Find(&job)
						if found = res.RowsAffected; res.Error != nil || found == 0 {
							return res.Error
						}
						return tx.Model(&job[0]).Update("done", gorm.Expr("done + 1")).Error
					})
					if err != nil || found == 0 {
						errs <- err
						return
					}
				}
			})
		}
		workers.Wait()
		for range cap(errs) {
			s.must(<-errs)
		}
		var done int64
		s.must(db.Model(&gormJob{}).Where("done = 1").Count(&done).Error)
		s.see("done once", done)
	})
}
