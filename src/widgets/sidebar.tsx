/**
 * The sidebar: this notebook, its runs, the jobs.
 */

import {
  LabIcon,
  PanelWithToolbar,
  ReactWidget,
  SidePanel,
  UseSignal
} from '@jupyterlab/ui-components';
import type { IStateDB } from '@jupyterlab/statedb';
import { IMessageHandler, Message, MessageLoop } from '@lumino/messaging';
import { ISignal, Signal } from '@lumino/signaling';
import { AccordionPanel, Widget } from '@lumino/widgets';
import * as React from 'react';

import type { IJobView, IRunSummary } from '../api/schema';
import { SortChoice } from '../components/filter';
import { JobList } from '../components/joblist';
import { ComparedWith, IComparedRun, RunList } from '../components/runlist';
import { Line, LinkButton, Problem } from '../components/shared';
import { GoesOn } from '../components/goeson';
import { StepList } from '../components/steplist';
import { counted } from '../model/format';
import type { FilterModel } from '../model/filter';
import type { JobsModel } from '../model/listing';
import type { RunsModel } from '../model/runs';
import type { StepsModel } from '../model/steps';
import { FilterLine } from './filter';

/** The notebook that is in front. */
export interface ICurrentNotebook {
  readonly steps: StepsModel;
  readonly path: string;
  readonly notebookId: string | null;
  readonly hasSteps: boolean;
  goTo(cell: string): void;
  runWhatChanged(): void;
  cancel(execution: string): void;
  insertLoad(): void;
  turnIntoStep(): void;
}

export interface ISidebarOptions {
  readonly icon: LabIcon;
  readonly state: IStateDB | null;
  readonly runs: RunsModel;
  readonly filter: FilterModel;
  readonly jobs: JobsModel;
  readonly onOpenRun: (run: string, path: string | null) => void;
  readonly onRunMenu: (run: IRunSummary, x: number, y: number) => void;
  /** Show what differs between a run and another one: its id, or what stands for an earlier one. */
  readonly onCompare: (run: string, other: string, path: string | null) => void;
  readonly onOpenJob: (job: IJobView) => void;
  readonly onJobMenu: (job: IJobView, x: number, y: number) => void;
  readonly onSchedule: () => void;
  readonly onOpenExample: (() => void) | null;
}

const OPEN_SECTIONS = 'mlbench:open-sections';
/** Below this height there is no room for sections, as for a moment while JupyterLab restores its layout. */
const TOO_LOW = 150;

export class Sidebar extends SidePanel {
  constructor(private _options: ISidebarOptions) {
    super();
    this.id = 'mlbench-sidebar';
    this.addClass('jp-mlb-Sidebar');
    this.title.icon = _options.icon;
    this.title.caption = 'mlbench: steps, runs and jobs';
    this.node.setAttribute('aria-label', 'mlbench');
    this._line = new FilterLine(_options.filter);
    this.header.addWidget(this._line);
    this.node.addEventListener('keydown', this._onKey);
    // The sections have what the filter leaves them, which is less while it says what is wrong.
    this._resized.observe(this.header.node);
    this._addSection('This notebook', 'steps', this._steps, this._stepsCount, this._stepsAction);
    this._addSection('Runs', 'runs', this._runs, this._runsCount, this._runsAction);
    this._addSection('Jobs', 'jobs', this._jobs, this._jobsCount, this._jobsAction);
    (this.content as AccordionPanel).setRelativeSizes([3, 5, 3]);
    MessageLoop.installMessageHook(this.content, keepShares);
    void this._restoreSections();
  }

  override dispose(): void {
    this._resized.disconnect();
    super.dispose();
  }

  get current(): ICurrentNotebook | null {
    return this._current;
  }

  /** Show another notebook, or none. */
  set current(current: ICurrentNotebook | null) {
    if (current?.steps !== this._current?.steps) {
      this._current?.steps.changed.disconnect(this._onSteps, this);
      current?.steps.changed.connect(this._onSteps, this);
    }
    this._current = current;
    this._followScope();
    this._changed.emit();
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Let the keyboard go to the filter. */
  focusFilter(): void {
    this._line.focus();
  }

  /** Have the user choose the run that one is compared with. */
  compare(run: IComparedRun | null): void {
    this._compared = run;
    this._changed.emit();
  }

  /** Give up choosing. */
  private _onKey = (event: KeyboardEvent): void => {
    if (event.key === 'Escape' && this._compared) {
      this.compare(null);
    }
  };

  private _onSteps(): void {
    this._followScope();
    this._changed.emit();
  }

  private _followScope(): void {
    const { filter } = this._options;
    const current = this._allNotebooks ? null : this._current;
    filter.scope = { path: current?.path ?? null, notebookId: current?.notebookId ?? null };
  }

  private _addSection(
    label: string,
    name: string,
    body: () => JSX.Element,
    count: () => string,
    action: (() => JSX.Element | null) | null
  ): void {
    const section = new PanelWithToolbar();
    section.addClass('jp-mlb-Section');
    section.addClass(`jp-mod-${name}`);
    section.title.label = label;
    const signals: ISignal<object, unknown>[] = [
      this._changed,
      this._options.filter.changed,
      this._options.jobs.changed
    ];
    const live = (render: () => JSX.Element | null) => () => (
      <Live signals={signals} render={render} />
    );
    const head = ReactWidget.create(<Live signals={signals} render={() => <>{count()}</>} />);
    head.addClass('jp-mlb-Section-count');
    section.toolbar.addItem('count', head);
    if (action) {
      const button = ReactWidget.create(live(action)());
      button.addClass('jp-mlb-Section-action');
      section.toolbar.addItem('action', button);
    }
    const content = ReactWidget.create(live(body)());
    content.addClass('jp-mlb-Section-body');
    section.addWidget(content);
    this.addWidget(section);
  }

  private async _restoreSections(): Promise<void> {
    const panel = this.content as AccordionPanel;
    const { state } = this._options;
    const closed = ((await state?.fetch(OPEN_SECTIONS)) as { closed?: string[] } | undefined)
      ?.closed;
    this.widgets.forEach((section, at) => {
      if (closed?.includes(section.title.label)) {
        panel.collapse(at);
      }
    });
    panel.expansionToggled.connect(() => {
      const now = this.widgets
        .filter((_, at) => !panel.titles[at].classList.contains('lm-mod-expanded'))
        .map(section => section.title.label);
      void state?.save(OPEN_SECTIONS, { closed: now });
    });
  }

  private _steps = (): JSX.Element => {
    const current = this._current;
    if (!current) {
      return (
        <Line>
          <span>The steps of the notebook that you open are drawn here.</span>
          {this._options.onOpenExample && (
            <LinkButton onClick={this._options.onOpenExample}>Open a notebook</LinkButton>
          )}
        </Line>
      );
    }
    const { steps } = current;
    if (steps.error) {
      return <Problem sentence={steps.error} onRetry={() => steps.redraw()} />;
    }
    if (!steps.graph) {
      return <Line>Reading the notebook …</Line>;
    }
    if (!steps.graph.steps.length && !steps.graph.problems.length) {
      return (
        <Line>
          <span>
            A cell that begins with <code>%%step NAME</code> is a step and appears here.
          </span>
          <LinkButton onClick={() => current.turnIntoStep()}>Turn this cell into a step</LinkButton>
        </Line>
      );
    }
    return (
      <>
        {steps.isCopy && (
          <Line>This is a copy of the notebook that its kernel runs: it shows no states.</Line>
        )}
        <GoesOn
          steps={steps.left}
          onCancel={() => steps.left.forEach(({ id }) => current.cancel(id))}
        />
        <StepList
          graph={steps.graph}
          activeCell={steps.activeCell}
          executionOf={cell => steps.executionOf(cell)}
          howFar={cell => steps.howFar(cell)}
          staleness={cell => steps.staleness(cell)}
          reusedFrom={execution => steps.reusedFrom(execution)}
          onOpen={cell => current.goTo(cell)}
          onOpenRun={run => this._options.onOpenRun(run, current.path)}
        />
        {steps.dashboards.map(({ name, url }) => (
          <Line key={name}>
            <a className="jp-mlb-Link" href={url} target="_blank" rel="noreferrer">
              Dask dashboard of {name}
            </a>
          </Line>
        ))}
      </>
    );
  };

  private _stepsCount = (): string => {
    const count = this._current?.steps.graph?.steps.length ?? 0;
    return count ? counted(count, 'step') : '';
  };

  private _stepsAction = (): JSX.Element | null => {
    const current = this._current;
    const cells = current?.steps.toRun ?? [];
    if (!current || !cells.length || current.steps.kernel === null) {
      return null;
    }
    return (
      <LinkButton
        title={`Run ${counted(cells.length, 'cell')}: steps that are out of date, have not run or did not succeed, and what they need`}
        onClick={() => current.runWhatChanged()}
      >
        Run what changed
      </LinkButton>
    );
  };

  private _runs = (): JSX.Element => {
    const { runs, filter } = this._options;
    const sort = (
      <SortChoice
        sort={filter.sort}
        metrics={filter.metrics}
        onSort={chosen => filter.sortBy(chosen)}
        onOpen={() => void filter.loadMetrics()}
      />
    );
    return (
      <div className="jp-mlb-Runs">
        {runs.length === 0 && filter.sort !== null && sort}
        {runs.error && <Problem sentence={runs.error} onRetry={() => runs.refresh()} />}
        {this._compared && (
          <ComparedWith
            run={this._compared}
            onWith={earlier => this._compareWith(earlier)}
            onCancel={() => this.compare(null)}
          />
        )}
        {runs.length ? (
          <RunList
            runs={runs}
            head={sort}
            compared={this._compared?.run.id ?? null}
            onOpen={this._onOpenRun}
            onCompare={this._onCompare}
            onMenu={this._options.onRunMenu}
          />
        ) : (
          !runs.error && this._noRuns()
        )}
      </div>
    );
  };

  /** What is said where no run is listed. */
  private _noRuns(): JSX.Element {
    const { runs, filter } = this._options;
    const { path, query } = runs.question;
    if (runs.refused) {
      return (
        <Line>
          <span>
            {runs.refused.isUnfinished
              ? 'The filter is not complete yet.'
              : 'The filter cannot be read.'}
          </span>
          <span className="jp-mlb-Line-actions">
            <LinkButton onClick={() => filter.clear()}>Clear the filter</LinkButton>
          </span>
        </Line>
      );
    }
    if (!runs.isLoaded || runs.isBehind) {
      return <Line>Asking for the runs …</Line>;
    }
    if (query.trim()) {
      return (
        <Line>
          <span>
            {path ? 'No run of this notebook fits the filter.' : 'No run fits the filter.'}
          </span>
          <span className="jp-mlb-Line-actions">
            <LinkButton onClick={() => filter.clear()}>Clear the filter</LinkButton>
            {path && (
              <LinkButton onClick={() => this._lookInAll(query)}>Look in all notebooks</LinkButton>
            )}
          </span>
        </Line>
      );
    }
    return (
      <Line>
        {path
          ? 'Runs of this notebook appear here, newest first. Run a step to make the first.'
          : 'Runs of all notebooks appear here, newest first. Run a step to make the first.'}
      </Line>
    );
  }

  /** Look for the same among the runs of all notebooks. */
  private _lookInAll(query: string): void {
    this._toggleScope();
    void this._options.filter.lookFor(query);
  }

  private _toggleScope(): void {
    this._allNotebooks = !this._allNotebooks;
    this._followScope();
    this._changed.emit();
  }

  private _onOpenRun = (summary: IRunSummary): void => {
    this._options.onOpenRun(summary.run.id, summary.path);
  };

  private _onCompare = (summary: IRunSummary): void => {
    if (!this._compared) {
      this.compare(summary);
    } else if (this._compared.run.id === summary.run.id) {
      this.compare(null);
    } else {
      this._compareWith(summary.run.id);
    }
  };

  private _compareWith(other: string): void {
    if (this._compared) {
      const { run, path } = this._compared;
      this.compare(null);
      this._options.onCompare(run.id, other, path);
    }
  }

  private _runsCount = (): string => {
    const { runs } = this._options;
    const { path } = runs.question;
    const name = path?.split('/').pop() ?? 'all notebooks';
    const count = runs.count.toLocaleString('en-US');
    return runs.answered ? `${name} · ${count}${runs.isFiltered ? ' found' : ''}` : name;
  };

  private _runsAction = (): JSX.Element | null => {
    if (!this._current) {
      return null;
    }
    return (
      <LinkButton onClick={() => this._toggleScope()}>
        {this._allNotebooks ? 'This notebook' : 'All notebooks'}
      </LinkButton>
    );
  };

  private _jobs = (): JSX.Element => {
    const { jobs } = this._options;
    if (jobs.error && !jobs.jobs.length) {
      return <Problem sentence={jobs.error} onRetry={() => jobs.refresh()} />;
    }
    if (!jobs.isLoaded) {
      return <Line>Asking for the jobs …</Line>;
    }
    if (!jobs.jobs.length) {
      return (
        <Line>
          <span>Notebooks that run by themselves appear here, with when they run next.</span>
          {this._current && (
            <LinkButton onClick={this._options.onSchedule}>Schedule this notebook</LinkButton>
          )}
        </Line>
      );
    }
    return (
      <>
        {jobs.error && <Problem sentence={jobs.error} onRetry={() => jobs.refresh()} />}
        <JobList
          jobs={jobs.jobs}
          onOpen={this._options.onOpenJob}
          onMenu={this._options.onJobMenu}
        />
      </>
    );
  };

  private _jobsCount = (): string => {
    const count = this._options.jobs.jobs.length;
    return count ? String(count) : '';
  };

  private _jobsAction = (): JSX.Element | null =>
    this._current && this._options.jobs.jobs.length ? (
      <LinkButton onClick={this._options.onSchedule}>Schedule this notebook</LinkButton>
    ) : null;

  private _allNotebooks = false;
  private _compared: IComparedRun | null = null;
  private _line: FilterLine;
  private _resized = new ResizeObserver(() => {
    MessageLoop.postMessage(this.content, Widget.ResizeMessage.UnknownSize);
  });
  private _changed = new Signal<this, void>(this);
  private _current: ICurrentNotebook | null = null;
}

/** Let each section keep its share of the height, where lumino would have all of them grow by as much. */
function keepShares(content: IMessageHandler, message: Message): boolean {
  if (message.type === 'resize') {
    const panel = content as AccordionPanel;
    if (panel.node.offsetHeight < TOO_LOW) {
      return false;
    }
    panel.setRelativeSizes(panel.relativeSizes(), false);
  }
  return true;
}

interface ILiveProps {
  readonly signals: ReadonlyArray<ISignal<object, unknown>>;
  readonly render: () => JSX.Element | null;
}

/** Draw again whenever one of several signals is emitted. */
function Live({ signals, render }: ILiveProps): JSX.Element {
  const [first, ...rest] = signals;
  return (
    <UseSignal signal={first}>
      {() => (rest.length ? <Live signals={rest} render={render} /> : <>{render()}</>)}
    </UseSignal>
  );
}
