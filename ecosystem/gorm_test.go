package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	gormmysql "gorm.io/driver/mysql"
	gormpostgres "gorm.io/driver/postgres"
	gormsqlite "gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"
)

type gormUser struct {
	ID        uint
	CreatedAt time.Time
	UpdatedAt time.Time
	DeletedAt gorm.DeletedAt `gorm:"index"`
	Name      string         `gorm:"size:50;uniqueIndex"`
	Age       int
	Settings  map[string]any `gorm:"serializer:json"`
	Orders    []gormOrder    `gorm:"foreignKey:UserID"`
	Roles     []gormRole     `gorm:"many2many:gorm_user_roles"`
	Hooked    string         `gorm:"-"`
}

type gormOrder struct {
	ID     uint
	UserID uint
	Amount int
	Lines  []gormLine `gorm:"foreignKey:OrderID"`
}

type gormLine struct {
	ID      uint
	OrderID uint
	Text    string
}

type gormRole struct {
	ID   uint
	Name string `gorm:"size:50"`
}

// BeforeCreate refuses a name, and reads in the transaction that it stands in.
func (u *gormUser) BeforeCreate(tx *gorm.DB) error {
	if u.Name == "refused" {
		return errors.New("refused by a hook")
	}
	var n int64
	if err := tx.Model(&gormRole{}).Count(&n).Error; err != nil {
		return err
	}
	u.Age += int(n)
	return nil
}

func (u *gormUser) AfterFind(*gorm.DB) error {
	u.Hooked = "found " + u.Name
	return nil
}

func (s *stage) gorm(configure ...func(*gorm.Config)) *gorm.DB {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	config := &gorm.Config{Logger: logger.Discard, NowFunc: func() time.Time { return now }, TranslateError: true}
	for _, f := range configure {
		f(config)
	}
	dialector := map[string]gorm.Dialector{
		postgresSQL: gormpostgres.New(gormpostgres.Config{Conn: s.db, DriverName: s.driver}),
		mysqlSQL:    gormmysql.New(gormmysql.Config{Conn: s.db}),
		sqliteSQL:   gormsqlite.New(gormsqlite.Config{Conn: s.db}),
	}[s.dialect]
	db, err := gorm.Open(dialector, config)
	s.must(err)
	db = db.WithContext(s.Context())
	s.must(db.AutoMigrate(&gormUser{}, &gormOrder{}, &gormLine{}, &gormRole{}))
	s.must(db.AutoMigrate(&gormUser{}, &gormOrder{}, &gormLine{}, &gormRole{})) // nothing is left to do
	return db
}

func gormUsers(n int) (users []gormUser) {
	for i := range n {
		u := gormUser{Name: fmt.Sprint("user ", i), Age: i % 40, Settings: map[string]any{"n": i, "tags": []string{"a", "b"}}}
		for k := range i % 3 {
			u.Orders = append(u.Orders, gormOrder{Amount: k + i, Lines: []gormLine{{Text: "one"}, {Text: "two"}}})
		}
		users = append(users, u)
	}
	return users
}

// settled takes out what the session's time zone shows.
func (u gormUser) settled() gormUser {
	u.CreatedAt, u.UpdatedAt = u.CreatedAt.UTC(), u.UpdatedAt.UTC()
	return u
}

func TestGORM(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		db := s.gorm()
		s.must(db.Create(&[]gormRole{{Name: "admin"}, {Name: "guest"}}).Error)
		users := gormUsers(60)
		users[3].Roles = []gormRole{{ID: 1}, {ID: 2}}
		created := db.CreateInBatches(users, 25)
		s.must(created.Error)
		s.see("created", created.RowsAffected)
		s.fails("refused by a hook", db.Create(&gormUser{Name: "refused"}).Error)
		s.fails("a duplicate", db.Create(&gormUser{Name: "user 1"}).Error)

		var found []gormUser
		s.must(db.Preload("Orders.Lines").Preload("Roles").Preload("Orders", func(db *gorm.DB) *gorm.DB { return db.Order("id") }).
			Where("age BETWEEN ? AND ?", 3, 6).Order("id").Find(&found).Error)
		for _, u := range found {
			s.see("preloaded", u.settled())
		}
		var sums []struct {
			Name  string
			Total int
		}
		s.must(db.Model(&gormUser{}).Select("gorm_users.name, SUM(gorm_orders.amount) AS total").
			Joins("JOIN gorm_orders ON gorm_orders.user_id = gorm_users.id").Group("gorm_users.name").
			Having("SUM(gorm_orders.amount) > ?", 50).Order("total, name").Scan(&sums).Error)
		s.see("sums", sums)

		var one gormUser
		s.fails("nobody", db.First(&one, "name = ?", "nobody").Error)
		s.must(db.Where(gormUser{Name: "new"}).Attrs(gormUser{Age: 7}).FirstOrCreate(&one).Error)
		s.see("FirstOrCreate", one.settled())
		s.must(db.Model(&one).Association("Roles").Append(&gormRole{ID: 2}))
		s.see("roles", db.Model(&one).Association("Roles").Count())
		s.see("expression", db.Model(&gormUser{}).Where("name = ?", "new").Update("age", gorm.Expr("age + ?", 10)).RowsAffected)
		s.must(db.Delete(&one).Error)
		var n int64
		s.must(db.Model(&gormUser{}).Where("name = ?", "new").Count(&n).Error)
		s.see("after a soft delete", n)
		s.must(db.Unscoped().Model(&gormUser{}).Where("name = ?", "new").Count(&n).Error)
		s.see("unscoped", n)
	})
}

func TestGORMOnConflict(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		db := s.gorm()
		s.must(db.Create(gormUsers(5)).Error)
		again := gormUsers(8)
		for i := range again {
			again[i].Orders, again[i].Age = nil, 99
		}
		upsert := clause.OnConflict{Columns: []clause.Column{{Name: "name"}}, DoUpdates: clause.AssignmentColumns([]string{"age"})}
		s.must(db.Clauses(upsert).Create(&again).Error)
		s.must(db.Clauses(clause.OnConflict{DoNothing: true}).Create(&gormUser{Name: "user 0", Age: 1}).Error)
		var all []gormUser
		s.must(db.Order("name").Find(&all).Error)
		for _, u := range all {
			s.see("user", []any{u.Name, u.Age, u.Hooked})
		}
		if s.dialect == mysqlSQL {
			return // it has no RETURNING behind UPDATE
		}
		var returned []gormUser
		s.must(db.Model(&returned).Clauses(clause.Returning{Columns: []clause.Column{{Name: "name"}}}).
			Where("name < ?", "user 3").Update("age", 1).Error)
		s.see("returned", len(returned))
	})
}

func TestGORMTransactions(t *testing.T) {
	run(t, 1, allServers, func(s *stage) {
		db := s.gorm()
		names := func(what string) {
			var names []string
			s.must(db.Model(&gormUser{}).Order("name").Pluck("name", &names).Error)
			s.see(what, names)
		}
		create := func(tx *gorm.DB, name string) error { return tx.Create(&gormUser{Name: name}).Error }
		undo := errors.New("undo")
		s.must(db.Transaction(func(tx *gorm.DB) error {
			s.must(create(tx, "outer"))
			inner := tx.Transaction(func(tx *gorm.DB) error { // a savepoint
				s.must(create(tx, "inner, undone"))
				return undo
			})
			assert.ErrorIs(s, inner, undo)
			inner = tx.Transaction(func(tx *gorm.DB) error { return create(tx, "outer") })
			s.fails("a duplicate in a savepoint", inner)
			return tx.Transaction(func(tx *gorm.DB) error { return create(tx, "inner, kept") })
		}))
		names("nested")

		tx := db.Begin()
		s.must(create(tx, "before"))
		s.must(tx.SavePoint("mark").Error)
		s.must(create(tx, "between"))
		s.must(tx.RollbackTo("mark").Error)
		s.must(tx.Commit().Error)
		names("by hand")
		s.fails("Commit again", tx.Commit().Error)

		assert.PanicsWithValue(s, "in a transaction", func() {
			_ = db.Transaction(func(tx *gorm.DB) error {
				s.must(create(tx, "panicking"))
				panic("in a transaction")
			})
		})
		names("after a panic")
		ctx, cancel := context.WithCancel(s.Context())
		cancel()
		s.fails("a transaction of a context that has ended", db.WithContext(ctx).Transaction(func(*gorm.DB) error { return nil }))
	})
}

// PrepareStmt keeps statements of database/sql, also across changes of the tables.
func TestGORMPreparedStatements(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		db := s.gorm(func(c *gorm.Config) { c.PrepareStmt = true })
		s.must(db.Create(gormUsers(10)).Error)
		for range 2 {
			for i := range 10 {
				var u gormUser
				s.must(db.Preload("Orders").Take(&u, "name = ?", fmt.Sprint("user ", i)).Error)
				s.see("user", []any{u.Name, u.Age, len(u.Orders)})
			}
		}
		s.must(db.Exec("ALTER TABLE gorm_users ADD COLUMN note varchar(20)").Error)
		s.must(db.Transaction(func(tx *gorm.DB) error { return tx.Create(&gormUser{Name: "later"}).Error }))
		var n int64
		s.must(db.Model(&gormUser{}).Where("name = ?", "later").Count(&n).Error)
		s.see("later", n)
		sqlDB, err := db.DB()
		s.must(err)
		assert.Same(s, s.db, sqlDB, "DB() is the handle, for PoolOf and Shutdown")
		db.ConnPool.(*gorm.PreparedStmtDB).Close()
	})
}

// Rows are read one by one, and in batches that are written back.
func TestGORMStreams(t *testing.T) {
	run(t, 2, allServers, func(s *stage) {
		db := s.gorm()
		s.must(db.CreateInBatches(gormUsers(300), 100).Error)
		rows, err := db.Model(&gormUser{}).Order("id").Rows()
		s.must(err)
		sum := 0
		for rows.Next() {
			var u gormUser
			s.must(db.ScanRows(rows, &u))
			if sum += u.Age; u.ID%100 == 0 {
				s.must(db.Model(&gormOrder{}).Where("user_id = ?", u.ID).Update("amount", -1).Error)
			}
		}
		s.must(rows.Err())
		s.must(rows.Close())
		s.see("sum", sum)
		var batch []gormUser
		s.must(db.FindInBatches(&batch, 70, func(tx *gorm.DB, n int) error {
			s.see("batch", []any{n, len(batch), tx.RowsAffected})
			return db.Model(&gormUser{}).Where("id = ?", batch[0].ID).Update("age", 1000).Error
		}).Error)
		var n int64
		s.must(db.Model(&gormUser{}).Where("age = 1000").Count(&n).Error)
		s.see("first of a batch", n)
	})
}

func TestGORMArrays(t *testing.T) {
	type tagged struct {
		ID   uint
		Tags pq.StringArray `gorm:"type:text[]"`
		Data map[string]any `gorm:"serializer:json;type:jsonb"`
	}
	run(t, 1, postgresServers, func(s *stage) {
		db := s.gorm()
		s.must(db.AutoMigrate(&tagged{}))
		s.must(db.Create(&[]tagged{
			{Tags: pq.StringArray{"a", `b "quoted"`}, Data: map[string]any{"k": []int{1, 2}}},
			{Tags: pq.StringArray{}},
		}).Error)
		var all []tagged
		s.must(db.Order("id").Find(&all).Error)
		s.see("all", all)
		s.must(db.Where("? = ANY(tags) AND data @> ?", "a", `{"k": [2]}`).Find(&all).Error)
		s.see("found", all)
	})
}

// A call on the handle inside of a transaction is GORM's commonest deadlock: it names both here.
func TestGORMHandleInTransaction(t *testing.T) {
	timeout := culprits(t, onPGX, 1, func(s *stage) error {
		db := s.gorm()
		return db.Transaction(func(tx *gorm.DB) error {
			s.must(tx.Create(&gormRole{Name: "admin"}).Error)
			return db.Create(&gormRole{Name: "guest"}).Error // db, not tx
		})
	})
	require.Len(t, timeout.Holders, 1)
	assert.Contains(t, timeout.Error(), "TestGORMHandleInTransaction")
	assert.Contains(t, timeout.Error(), "idle in a transaction")
}
