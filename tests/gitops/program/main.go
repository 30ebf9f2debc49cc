// Runs what GitOps tools run over an object: Argo CD's Lua scripts, Flux's health expressions, kstatus.
//
// Reads a JSON list of tasks, writes a JSON list of answers, in their order.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	luajson "layeh.com/gopher-json"
)

type task struct {
	// Program is lua, flux or kstatus.
	Program string `json:"program"`
	// Script of lua; it has the object as the global obj.
	Script string `json:"script"`
	// Expressions of flux, as in spec.healthCheckExprs of a Kustomization.
	Expressions kustomize.HealthCheckExpressions `json:"expressions"`
	Object      json.RawMessage                  `json:"object"`
}

type answer struct {
	Value any    `json:"value,omitempty"`
	Error string `json:"error,omitempty"`
}

func main() {
	var tasks []task
	if err := json.NewDecoder(os.Stdin).Decode(&tasks); err != nil {
		fmt.Fprintln(os.Stderr, "the tasks:", err)
		os.Exit(1)
	}
	answers := []answer{}
	for _, one := range tasks {
		value, err := run(one)
		if err != nil {
			answers = append(answers, answer{Error: err.Error()})
			continue
		}
		answers = append(answers, answer{Value: value})
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fmt.Fprintln(os.Stderr, "the answers:", err)
		os.Exit(1)
	}
}

func run(one task) (any, error) {
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(one.Object); err != nil {
		return nil, err
	}
	switch one.Program {
	case "lua":
		return runLua(object, one.Script)
	case "flux":
		evaluator, err := cel.NewStatusEvaluator(&one.Expressions)
		if err != nil {
			return nil, err
		}
		found, err := evaluator.Evaluate(context.Background(), object)
		if err != nil {
			return nil, err
		}
		return found.Status.String(), nil
	case "kstatus":
		found, err := status.Compute(object)
		if err != nil {
			return nil, err
		}
		return map[string]string{"status": found.Status.String(), "message": found.Message}, nil
	}
	return nil, fmt.Errorf("unknown program %q", one.Program)
}

// runLua as Argo CD does: the libraries package, base and table; os by require, with date and time alone; one
// second. https://github.com/argoproj/argo-cd/blob/master/util/lua/lua.go
func runLua(object *unstructured.Unstructured, script string) (json.RawMessage, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{
		{lua.LoadLibName, lua.OpenPackage},
		{lua.BaseLibName, lua.OpenBase},
		{lua.TabLibName, lua.OpenTable},
	} {
		call := lua.P{Fn: state.NewFunction(library.open), Protect: true}
		if err := state.CallByParam(call, lua.LString(library.name)); err != nil {
			return nil, err
		}
	}
	state.PreloadModule(lua.OsLibName, openSafeOs)
	limit, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(limit)
	state.SetGlobal("obj", decode(state, object.Object))
	if err := state.DoString(script); err != nil {
		return nil, err
	}
	returned := state.Get(-1)
	if returned.Type() != lua.LTTable {
		return nil, fmt.Errorf("the script returned a %s, not a table", returned.Type())
	}
	return luajson.Encode(returned)
}

// openSafeOs is the library os without what could touch the machine.
func openSafeOs(state *lua.LState) int {
	whole := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer whole.Close()
	lua.OpenOs(whole)
	safe := state.NewTable()
	for _, name := range []string{"date", "time"} {
		safe.RawSetString(name, whole.GetField(whole.GetGlobal(lua.OsLibName), name))
	}
	state.Push(safe)
	return 1
}

// decode takes whole numbers too, which luajson's own does not.
func decode(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case int64:
		return lua.LNumber(value)
	case []any:
		table := state.CreateTable(len(value), 0)
		for _, item := range value {
			table.Append(decode(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(value))
		for key, item := range value {
			table.RawSetString(key, decode(state, item))
		}
		return table
	}
	return luajson.DecodeValue(state, value)
}
