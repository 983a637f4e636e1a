/**
 * A run's page: what happened in the head, its steps with their times, and the details of one of them.
 */

import { caretDownIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { IDifference, IExecution, IRunDetail } from '../api/schema';
import { isEmpty, telling } from '../model/difference';
import { fanoutWords } from '../model/fanout';
import { clock, counted, duration, exact, figure, millis, moment, size } from '../model/format';
import { layOut } from '../model/lanes';
import type { IFold, RunTab } from '../model/run';
import { isUnderWay } from '../model/steps';
import { itemName, lastOf } from './execution';
import { LaneRow, LanesBelow, laneWidth } from './lanes';
import { runName } from './runlist';
import { Fact, LinkButton, moveFocus, Pair, useNow } from './shared';
import { StateIcon } from './stateicon';
import { remark, timeOf } from './steplist';

const ROW = 26;

export interface IRunHeadProps {
  readonly detail: IRunDetail;
  readonly onCancel: () => void;
  /** The step that a resumed run would begin with, where it can be resumed. */
  readonly resumesFrom: string | null;
  readonly isResuming: boolean;
  readonly onResume: () => void;
  readonly onOpenRun: (run: string) => void;
  /** What differs from the last run that succeeded, where there is one and this is known. */
  readonly sinceSuccess: IDifference | null;
  /** Show what differs from an earlier run. */
  readonly onCompare: (earlier: string) => void;
  /** Show what this run can be compared with, at a place of the page. */
  readonly onCompareMenu: (x: number, y: number) => void;
}

export function RunHead(props: IRunHeadProps): JSX.Element {
  const { detail, onCancel } = props;
  const { run } = detail;
  const isLive = run.ended === null && (run.state === 'running' || run.state === 'queued');
  const now = useNow(isLive);
  const started = millis(run.started);
  const parameters = Object.entries(run.parameters);
  const tags = Object.entries(run.tags);
  return (
    <header className="jp-mlb-RunHead">
      <div className="jp-mlb-RunHead-title">
        <StateIcon state={run.state} size={20} />
        <h1>{runName(detail)}</h1>
        <span className="jp-mlb-RunHead-state">
          {run.state}
          {run.reason && run.reason !== 'error' ? ` (${run.reason})` : ''}
        </span>
        <code title={run.id}>{run.id.slice(0, 4)}</code>
        {isLive && (
          <button type="button" className="jp-mlb-Button" onClick={onCancel}>
            Cancel
          </button>
        )}
        {props.resumesFrom !== null && (
          <button
            type="button"
            className="jp-mlb-Button jp-mod-main"
            title="Run it again from there; what succeeded is reused"
            disabled={props.isResuming}
            onClick={props.onResume}
          >
            {props.isResuming ? 'Resuming' : 'Resume'} from {props.resumesFrom}
            {props.isResuming && ' …'}
          </button>
        )}
        <button
          type="button"
          className="jp-mlb-Button"
          aria-haspopup="menu"
          title="See what differs from another run"
          onClick={event => {
            const box = event.currentTarget.getBoundingClientRect();
            props.onCompareMenu(box.left, box.bottom);
          }}
        >
          Compare
          <caretDownIcon.react tag="span" width="14px" height="14px" />
        </button>
      </div>
      <dl className="jp-mlb-RunHead-facts">
        <Fact name="Started">
          <span title={exact(started)}>{moment(started)}</span>
        </Fact>
        <Fact name={isLive ? 'Running for' : 'Took'}>
          {run.ended === null ? clock(now - started) : duration(millis(run.ended - run.started))}
        </Fact>
        <Fact name="By">{startedBy(detail)}</Fact>
        {run.resumed_from !== null && (
          <Fact name="Resumes">
            <LinkButton onClick={() => props.onOpenRun(run.resumed_from as string)}>
              run {run.resumed_from.slice(0, 4)}
            </LinkButton>
          </Fact>
        )}
        {parameters.length > 0 && (
          <Fact name="Parameters">
            {parameters.map(([name, value]) => (
              <Pair key={name} name={name}>
                {typeof value === 'string' ? value : JSON.stringify(value)}
              </Pair>
            ))}
          </Fact>
        )}
        {run.metrics.length > 0 && (
          <Fact name="Metrics">
            {lastOf(run.metrics).map(({ name, value }) => (
              <Pair key={name} name={name}>
                {figure(value)}
              </Pair>
            ))}
          </Fact>
        )}
        {tags.length > 0 && (
          <Fact name="Tags">
            {tags.map(([name, value]) => (
              <Pair key={name} name={name}>
                {value}
              </Pair>
            ))}
          </Fact>
        )}
        {props.sinceSuccess && (
          <Fact name="Changed since the last success">
            <SinceSuccess
              difference={props.sinceSuccess}
              detail={detail}
              onCompare={props.onCompare}
            />
          </Fact>
        )}
        {detail.code && <Fact name="Code">{detail.code}</Fact>}
        {run.notebook && (
          <Fact name="Notebook">
            <span title={run.notebook}>{detail.path ?? run.notebook}</span>
          </Fact>
        )}
      </dl>
    </header>
  );
}

function failedStep({ run, executions }: IRunDetail): string | null {
  return run.failed_step ?? executions.find(each => each.state === 'failed')?.step ?? null;
}

interface ISinceSuccessProps {
  readonly difference: IDifference;
  readonly detail: IRunDetail;
  readonly onCompare: (earlier: string) => void;
}

/** The few things that are likeliest to have made it fail. */
function SinceSuccess({ difference, detail, onCompare }: ISinceSuccessProps): JSX.Element {
  const causes = telling(difference, failedStep(detail), detail.edges);
  return (
    <button
      type="button"
      className={`jp-mlb-LinkButton${causes.length ? ' jp-mlb-RunHead-causes' : ''}`}
      title={`See all that differs from run ${difference.before.slice(0, 4)}`}
      onClick={() => onCompare('last-success')}
    >
      {causes.join(' · ') ||
        (isEmpty(difference) ? 'nothing that is recorded' : 'nothing but what came out')}
    </button>
  );
}

function startedBy({ run, job }: IRunDetail): string {
  const user = run.user ?? 'somebody';
  switch (run.kind) {
    case 'interactive':
      return `${user}, in a notebook`;
    case 'papermill':
      return `${user}, with papermill`;
    case 'job':
      return `job ${job ?? 'that is gone'}, ${run.due === null ? 'on demand' : 'schedule'}`;
  }
}

export interface ITabsProps {
  readonly tab: RunTab;
  /** How many artifacts there are. */
  readonly artifacts: number;
  readonly onTab: (tab: RunTab) => void;
}

const TABS: ReadonlyArray<readonly [RunTab, string]> = [
  ['steps', 'Steps'],
  ['artifacts', 'Artifacts'],
  ['notebook', 'Notebook']
];

export function Tabs({ tab, artifacts, onTab }: ITabsProps): JSX.Element {
  const at = TABS.findIndex(([name]) => name === tab);
  return (
    <div
      className="jp-mlb-Tabs"
      role="tablist"
      onKeyDown={event => {
        const by = event.key === 'ArrowRight' ? 1 : event.key === 'ArrowLeft' ? -1 : 0;
        if (by) {
          const next = (at + by + TABS.length) % TABS.length;
          onTab(TABS[next][0]);
          event.currentTarget.querySelectorAll<HTMLElement>('[role=tab]')[next]?.focus();
          event.preventDefault();
        }
      }}
    >
      {TABS.map(([name, label]) => (
        <button
          key={name}
          type="button"
          role="tab"
          aria-selected={tab === name}
          tabIndex={tab === name ? 0 : -1}
          className="jp-mlb-Tabs-tab"
          onClick={() => onTab(name)}
        >
          {label}
          {name === 'artifacts' && artifacts > 0 && (
            <>
              {' '}
              <span className="jp-mlb-Tabs-count">{artifacts.toLocaleString('en-US')}</span>
            </>
          )}
        </button>
      ))}
    </div>
  );
}

export interface IStepsTableProps {
  readonly detail: IRunDetail;
  readonly chosen: string | null;
  readonly onChoose: (execution: string) => void;
  /** What is listed of a fan-out's items. */
  readonly fold: (execution: string) => IFold;
  /** How many more items of a fan-out can be listed at a time. */
  readonly restOf: (execution: IExecution) => number;
  readonly onMoreItems: (execution: IExecution) => void;
  /** The run that an execution was reused from, once that is known. */
  readonly reusedFrom: (execution: IExecution) => string | null;
  readonly onOpenRun: (run: string) => void;
}

export function StepsTable(props: IStepsTableProps): JSX.Element {
  const { detail, onChoose } = props;
  const { executions, edges, run } = detail;
  const isLive = executions.some(each => each.ended === null);
  const now = useNow(isLive);
  const layout = React.useMemo(
    () =>
      layOut(
        executions.map(({ step }) => ({
          name: step,
          parents: edges.filter(edge => edge.child === step).map(edge => edge.parent)
        }))
      ),
    [executions, edges]
  );
  const start = Math.min(run.started, ...executions.map(each => each.queued ?? run.started));
  const end = Math.max(
    start + 1,
    ...executions.map(each => each.ended ?? 0),
    isLive ? now * 1e6 : (run.ended ?? 0)
  );
  const span = { start, end, now };
  return (
    <table className="jp-mlb-StepsTable" onKeyDown={event => onRowKey(event, onChoose)}>
      <thead>
        <tr>
          <th scope="col">step</th>
          <th scope="col" className="jp-mlb-StepsTable-scale">
            <span>0 s</span>
            <span>{duration(millis(end - start))}</span>
          </th>
          <th scope="col" className="jp-mod-number">
            took
          </th>
          <th scope="col" className="jp-mod-number">
            peak
          </th>
          <th scope="col">where</th>
        </tr>
      </thead>
      <tbody onKeyDown={event => moveFocus(event)}>
        {executions.map((execution, row) => {
          const { items, error } = props.fold(execution.id);
          const origin = execution.state === 'reused' ? props.reusedFrom(execution) : null;
          return (
            <React.Fragment key={execution.id}>
              <Row
                {...props}
                {...span}
                execution={execution}
                isFirst={row === 0}
                lanes={<LaneRow layout={layout} row={row} height={ROW} state={execution.state} />}
                name={execution.step}
                where={
                  origin ? (
                    <LinkButton
                      title={`Open run ${origin}, in which it ran`}
                      onClick={() => props.onOpenRun(origin)}
                    >
                      from {origin.slice(0, 4)}
                    </LinkButton>
                  ) : (
                    (execution.worker ?? '')
                  )
                }
              />
              {items.map(item => (
                <Row
                  {...props}
                  {...span}
                  key={item.id}
                  execution={item}
                  isFirst={false}
                  lanes={
                    <span className="jp-mlb-StepsTable-fold" style={{ width: laneWidth(layout) }}>
                      <LanesBelow layout={layout} row={row} height={ROW} />
                      <StateIcon state={item.state} size={12} />
                    </span>
                  }
                  name={itemName(item)}
                  where={itemFact(item)}
                />
              ))}
              {execution.fanout && (items.length > 0 || error) && (
                <tr className="jp-mlb-StepsTable-more">
                  <td colSpan={5} className="jp-mlb-StepsTable-step">
                    <div>
                      <LanesBelow layout={layout} row={row} height={ROW} />
                      <span>{error ?? restWords(execution, items)}</span>
                      {props.restOf(execution) > 0 && (
                        <LinkButton onClick={() => props.onMoreItems(execution)}>
                          Show {props.restOf(execution).toLocaleString('en-US')}
                        </LinkButton>
                      )}
                    </div>
                  </td>
                </tr>
              )}
            </React.Fragment>
          );
        })}
      </tbody>
    </table>
  );
}

interface IRowProps {
  readonly execution: IExecution;
  readonly chosen: string | null;
  readonly onChoose: (execution: string) => void;
  readonly isFirst: boolean;
  readonly lanes: JSX.Element;
  readonly name: string;
  readonly where: React.ReactNode;
  readonly start: number;
  readonly end: number;
  readonly now: number;
}

function Row(props: IRowProps): JSX.Element {
  const { execution, chosen, now } = props;
  const isItem = execution.part_of !== null;
  const isChosen = chosen === execution.id;
  const row = React.useRef<HTMLTableRowElement>(null);
  React.useEffect(() => {
    if (isChosen) {
      row.current?.scrollIntoView({ block: 'nearest' });
    }
  }, [isChosen]);
  return (
    <tr
      ref={row}
      data-row={execution.id}
      tabIndex={isChosen || (chosen === null && props.isFirst) ? 0 : -1}
      aria-selected={isChosen}
      className={[isChosen ? 'jp-mod-selected' : '', isItem ? 'jp-mod-item' : ''].join(' ')}
      onClick={() => props.onChoose(execution.id)}
    >
      <td className="jp-mlb-StepsTable-step">
        <div>
          {props.lanes}
          <span className="jp-mlb-StepList-name" title={props.name}>
            {props.name}
          </span>
          <span className="jp-mlb-StepList-extra">{rowWords(execution)}</span>
        </div>
      </td>
      <td>
        <Bars execution={execution} start={props.start} end={props.end} now={now * 1e6} />
      </td>
      <td className="jp-mod-number">{timeOf(execution, now)}</td>
      <td className="jp-mod-number jp-mod-quiet">
        {execution.peak_memory === null ? '' : size(execution.peak_memory)}
      </td>
      <td className="jp-mod-quiet">{props.where}</td>
    </tr>
  );
}

/** What is said behind a name: how far its items are, else why it did not succeed. */
function rowWords(execution: IExecution): string {
  const { fanout } = execution;
  return fanout?.failed || (fanout && isUnderWay(execution))
    ? fanoutWords(fanout, isUnderWay(execution))
    : [fanout && fanoutWords(fanout, false), remark(null, execution)].filter(Boolean).join(' · ');
}

/** What tells an item of a fan-out apart: the last of its metrics, or that it took several attempts. */
function itemFact(item: IExecution): string {
  const metric = item.metrics[item.metrics.length - 1];
  return item.attempt > 1
    ? `attempt ${item.attempt}`
    : metric
      ? `${metric.name} ${figure(metric.value)}`
      : (item.worker ?? '');
}

/** What is said of the items that are not listed. */
function restWords({ fanout }: IExecution, items: ReadonlyArray<IExecution>): string {
  if (!fanout || fanout.total === null) {
    return '';
  }
  const rest = fanout.total - items.length;
  const failed = fanout.failed - items.filter(each => each.state === 'failed').length;
  const done = fanout.succeeded + fanout.reused;
  const listed = items.filter(each => each.state === 'succeeded' || each.state === 'reused').length;
  if (rest <= 0) {
    return `all ${counted(fanout.total, 'item')}`;
  }
  if (done - listed === rest) {
    return `and ${rest.toLocaleString('en-US')} more, all done`;
  }
  const parts = [
    `${(done - listed).toLocaleString('en-US')} done`,
    failed > 0 ? `${failed.toLocaleString('en-US')} failed` : '',
    fanout.cancelled ? `${fanout.cancelled.toLocaleString('en-US')} cancelled` : ''
  ];
  return `and ${rest.toLocaleString('en-US')} more: ${parts.filter(Boolean).join(', ')}`;
}

function onRowKey(event: React.KeyboardEvent, onChoose: (execution: string) => void): void {
  const row = (event.target as HTMLElement).dataset?.row;
  if (row && (event.key === 'Enter' || event.key === ' ')) {
    onChoose(row);
    event.preventDefault();
  }
}

interface IBarsProps {
  readonly execution: IExecution;
  readonly start: number;
  readonly end: number;
  readonly now: number;
}

/** The time that a step waited in the queue, and the time that it ran. */
function Bars({ execution, start, end, now }: IBarsProps): JSX.Element {
  const { queued, started, ended, state, attempts } = execution;
  const earlier = attempts.filter(each => each.started !== null && each.ended !== null);
  const place = (from: number, to: number): React.CSSProperties => ({
    left: `${(100 * (from - start)) / (end - start)}%`,
    width: `${Math.max(0.4, (100 * (to - from)) / (end - start))}%`
  });
  const waited = queued !== null && started !== null && started > queued;
  const waits = queued !== null && started === null && ended === null;
  const label = [
    ...earlier.map(
      each => `attempt ${each.number} ${each.state}${each.reason ? `: ${each.reason}` : ''}`
    ),
    waited ? `queued for ${duration(millis(started - queued))}` : '',
    started !== null ? `ran for ${duration(millis((ended ?? now) - started))}` : state
  ];
  return (
    <div className="jp-mlb-Bars" title={label.filter(Boolean).join(', ')}>
      {waited && <span className="jp-mlb-Bars-queue" style={place(queued, started)} />}
      {earlier.map(each => (
        <span
          key={each.number}
          className="jp-mlb-Bars-run jp-mod-earlier"
          data-state={each.state}
          style={place(each.started ?? 0, each.ended ?? 0)}
        />
      ))}
      {waits && <span className="jp-mlb-Bars-queue" style={place(queued, now)} />}
      {started !== null && (
        <span className="jp-mlb-Bars-run" data-state={state} style={place(started, ended ?? now)} />
      )}
      {started === null && ended !== null && (
        <span className="jp-mlb-Bars-skipped" style={place(Math.min(ended, end), ended)} />
      )}
    </div>
  );
}
